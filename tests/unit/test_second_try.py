"""A row that is not finite is computed again, alone and then in float32, before it is given up."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch

from pipeline.models.batch import PackedBatch
from pipeline.models.engine import Engine
from pipeline.models.packed import FeatureStore, PrefixStore
from tests.fixtures.golden_vectors import tiny_encoder
from tests.fixtures.prepared import image_item, text_item
from tests.fixtures.small_device import unit

ITEMS = [text_item(12, seed=1), image_item(seed=2), text_item(30, seed=3), text_item(5, seed=4)]
BAD = 2


class Spoilt:
    """A model that overflows on batches that hold a token: in company, in its own dtype, or however it is run."""

    def __init__(self, encoder: Engine, token: int, *, in_company_only: bool = False) -> None:
        self._model = encoder._model
        self.width = self._model.width
        self._token = token
        self._in_company_only = in_company_only
        self.batches: list[int] = []
        encoder._model = self  # type: ignore[assignment]

    def __call__(
        self, batch: PackedBatch, store: FeatureStore, keep: Collection[int], prefixes: PrefixStore
    ) -> torch.Tensor:
        pooled = self._model(batch, store, keep, prefixes)
        self.batches.append(len(pooled))
        spoilt = bool((batch.ids == self._token).any())
        if spoilt and (len(pooled) > 1 or not self._in_company_only):
            pooled = pooled.clone()
            # As kernels that mask by multiplying with zero do, one row's NaN reaches its neighbours.
            pooled[:] = float("nan")
        return pooled


def token_of(index: int) -> int:
    return int(ITEMS[index].input_ids[1])


def test_neighbours_of_a_row_that_is_not_finite_come_through() -> None:
    encoder = tiny_encoder()
    expected = encoder.encode(ITEMS).vectors
    Spoilt(encoder, token_of(BAD))
    encoded = encoder.encode(ITEMS)
    assert encoded.not_finite == [BAD]
    good = [index for index in range(len(ITEMS)) if index != BAD]
    np.testing.assert_allclose(unit(encoded.vectors[good]), unit(expected[good]), atol=1e-5)


def test_a_row_that_company_spoils_comes_through_alone() -> None:
    encoder = tiny_encoder()
    expected = encoder.encode(ITEMS).vectors
    Spoilt(encoder, token_of(BAD), in_company_only=True)
    encoded = encoder.encode(ITEMS)
    assert encoded.not_finite == []
    np.testing.assert_allclose(unit(encoded.vectors), unit(expected), atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_row_that_16_bits_spoil_comes_through_in_float32(dtype: str) -> None:
    truth = tiny_encoder().encode([ITEMS[BAD]]).vectors
    encoder = tiny_encoder(dtype=dtype)
    before = {name: weight.dtype for name, weight in encoder._stock.named_parameters()}
    plain = encoder.encode(ITEMS).vectors
    # The float32 copy is an engine of its own, which this does not spoil.
    Spoilt(encoder, token_of(BAD))
    encoded = encoder.encode(ITEMS)
    assert encoded.not_finite == []
    # The weights were rounded when they were loaded: what float32 computes of them is near the truth, and nearer.
    distances = [np.abs(unit(rows) - unit(truth)).max() for rows in (encoded.vectors[[BAD]], plain[[BAD]])]
    assert distances[0] < 0.05
    assert not np.array_equal(encoded.vectors[BAD], plain[BAD])
    assert {name: weight.dtype for name, weight in encoder._stock.named_parameters()} == before


def test_without_room_for_a_float32_copy_the_row_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder(dtype="bfloat16")
    Spoilt(encoder, token_of(BAD))
    monkeypatch.setattr("pipeline.models.engine.has_room", lambda device, n_bytes: n_bytes < 1000)
    assert encoder.encode(ITEMS).not_finite == [BAD]


def test_a_deterministic_engine_tries_no_row_twice_in_the_same_way() -> None:
    encoder = tiny_encoder(deterministic=True)
    expected = encoder.encode(ITEMS).vectors
    spoilt = Spoilt(encoder, token_of(BAD))
    encoded = encoder.encode(ITEMS)
    assert spoilt.batches == [1] * len(ITEMS)
    assert encoded.not_finite == [BAD]
    good = [index for index in range(len(ITEMS)) if index != BAD]
    np.testing.assert_array_equal(encoded.vectors[good], expected[good])


def test_a_real_overflow_in_float16_is_not_one_in_float32() -> None:
    encoder = tiny_encoder(dtype="float16")
    norm = encoder._stock.language_model.norm
    with torch.no_grad():
        norm.weight.copy_(torch.full_like(norm.weight, 60_000.0))  # times a state of size 1: beyond float16's 65,504
    encoded = encoder.encode(ITEMS)
    assert np.isfinite(encoded.vectors).all()
    assert (np.abs(encoded.vectors).max(axis=1) > np.finfo(np.float16).max).all()
