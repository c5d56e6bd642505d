"""Slabs: the same rows as the whole layer gives, none of them wider than they may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.models import rows
from pipeline.models.rows import by_rows


@pytest.mark.parametrize("n", [1, 99, 100, 101, 350])
def test_slabs_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(rows, "CPU_SLAB_BYTES", 100 * 32 * 4)
    wide, narrow = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
    sizes: list[int] = []

    def layer(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return narrow(wide(x).relu())

    x = torch.randn(n, 8)
    with torch.inference_mode():
        expected = narrow(wide(x).relu())
        torch.testing.assert_close(by_rows(layer, x.clone(), 32), expected)
    assert sum(sizes) == n
    assert max(sizes) <= 100
    assert max(sizes) - min(sizes) <= 1
