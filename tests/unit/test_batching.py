"""Micro-batches: every item once, within the budget, and halved when the device says so."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.batching import auto_token_budget, micro_batches, run_splitting

LENGTHS = st.lists(st.integers(1, 300), max_size=60)


@given(LENGTHS, st.integers(1, 2000))
def test_every_item_is_in_one_batch_and_only_lone_items_pass_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget, single=False)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


@given(LENGTHS)
def test_single_gives_one_item_a_batch(lengths: list[int]) -> None:
    assert sorted(micro_batches(lengths, 10**9, single=True)) == [[index] for index in range(len(lengths))]


def test_batches_come_longest_first_and_pad_neighbours_only() -> None:
    assert micro_batches([5, 100, 6, 99, 7], 200, single=False) == [[1, 3], [4, 2, 0]]


class TooLarge(Exception):
    """Stands for the device's out-of-memory error."""


@given(st.lists(st.integers(), min_size=1, max_size=40), st.integers(1, 40))
def test_a_batch_that_is_too_large_is_halved_until_it_fits_in_order(items: list[int], limit: int) -> None:
    released: list[bool] = []

    def run(part: Sequence[int]) -> list[int]:
        if len(part) > limit:
            raise TooLarge
        return [value + 1 for value in part]

    result = run_splitting(items, run, TooLarge, lambda: released.append(True))
    assert result == [value + 1 for value in items]
    assert bool(released) == (len(items) > limit)


def test_an_item_too_large_alone_raises_and_other_errors_are_not_retried() -> None:
    def never(part: Sequence[int]) -> list[int]:
        raise TooLarge(f"{len(part)}")

    with pytest.raises(TooLarge, match="1"):
        run_splitting([1, 2, 3], never, TooLarge, lambda: None)

    calls: list[int] = []

    def broken(part: Sequence[int]) -> list[int]:
        calls.append(len(part))
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_splitting([1, 2, 3], broken, TooLarge, lambda: None)
    assert calls == [3]


def test_the_automatic_budget_follows_the_device() -> None:
    gib = 1 << 30
    large = auto_token_budget(on_gpu=True, free_bytes=70 * gib, hidden_dim=2048, element_bytes=2)
    small = auto_token_budget(on_gpu=True, free_bytes=4 * gib, hidden_dim=2048, element_bytes=2)
    assert large == 16_384
    assert 1_000 < small < large
    assert auto_token_budget(on_gpu=True, free_bytes=0, hidden_dim=2048, element_bytes=2) == 1
    assert auto_token_budget(on_gpu=False, free_bytes=0, hidden_dim=2048, element_bytes=4) == 2_048
