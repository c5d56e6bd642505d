"""Out of memory: only what does not fit alone is lost, and what was learned is kept."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError, RejectCode
from pipeline.models.batch import PackedBatch
from pipeline.models.collate import HostBatch
from pipeline.models.memory import GPU_TOKENS, TRIAL_TOKENS, find_budget
from pipeline.models.probe import filling_items
from pipeline.models.window_run import WindowRun
from pipeline.packing import Budget
from pipeline.types import MediaKind
from tests.fixtures.golden_vectors import tiny_encoder
from tests.fixtures.prepared import image_item, item_of, mixed_items, text_item, visual
from tests.fixtures.small_device import SmallDevice, unit


def test_a_batch_that_does_not_fit_is_split_and_the_smaller_budget_kept() -> None:
    encoder, items = tiny_encoder(), mixed_items()
    expected = encoder.encode(items).vectors
    device = SmallDevice(encoder, 90)
    encoded = encoder.encode(items)
    assert encoded.too_large == ()
    np.testing.assert_allclose(unit(encoded.vectors), unit(expected), atol=1e-5)
    assert max(device.sizes) > 90
    learned, tried = encoder.token_budget, len(device.sizes)
    assert learned <= 97
    encoder.encode(items)
    assert max(device.sizes[tried:]) <= 90  # nothing fails again


def test_only_the_item_that_does_not_fit_alone_is_lost() -> None:
    encoder = tiny_encoder()
    items = [text_item(10, seed=1), text_item(200, seed=2), image_item(seed=3), text_item(300, seed=4), text_item(5)]
    expected = encoder.encode(items).vectors
    SmallDevice(encoder, 100)
    encoded = encoder.encode(items)
    assert encoded.too_large == (
        (1, "CUDA out of memory. Tried to allocate"),
        (3, "CUDA out of memory. Tried to allocate"),
    )
    assert np.isnan(encoded.vectors[[1, 3]]).all()
    np.testing.assert_allclose(unit(encoded.vectors[[0, 2, 4]]), unit(expected[[0, 2, 4]]), atol=1e-5)
    assert RejectCode.GPU_OOM.meaning.retryable


def test_a_picture_whose_first_item_is_lost_is_computed_for_the_next() -> None:
    shared = visual(MediaKind.IMAGE, 1, 64, 96, seed=3)
    items = [item_of([shared], 200, seed=1), item_of([shared], 20, seed=2), item_of([shared], 15, seed=3)]
    for helper in (None, ThreadPoolExecutor(1)):
        encoder = tiny_encoder(token_budget=1)
        encoder._helper = helper
        expected = encoder.encode(items).vectors
        SmallDevice(encoder, 100)
        encoded = encoder.encode(items)
        assert [index for index, _ in encoded.too_large] == [0]
        np.testing.assert_allclose(encoded.vectors[1:], expected[1:], atol=1e-5)


def test_a_copy_ahead_that_finds_no_room_loses_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, items = tiny_encoder(token_budget=1), [text_item(20, seed=1), text_item(10, seed=2)]
    expected, send = encoder.encode(items).vectors, encoder._sender.send

    def full_beside_a_forward(batch: HostBatch) -> PackedBatch:
        if threading.current_thread() is not threading.main_thread():
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return send(batch)

    monkeypatch.setattr(encoder._sender, "send", full_beside_a_forward)
    with ThreadPoolExecutor(1) as helper:
        encoder._helper = helper
        encoded = encoder.encode(items)
    assert encoded.too_large == ()
    assert encoded.forwards == 2
    np.testing.assert_array_equal(encoded.vectors, expected)


class AtOnce(ThreadPoolExecutor):
    """One thread, which has finished a task and let go of it once it is submitted."""

    def submit(self, task: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future = super().submit(task, *arguments, **named)
        super().submit(int).result()
        return future


@pytest.mark.parametrize("fails", ["copying ahead", "computing"])
def test_memory_is_given_back_when_nothing_holds_it_any_more(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    encoder = tiny_encoder(token_budget=1)
    send, ahead, held = encoder._sender.send, list[weakref.ref[torch.Tensor]](), list[bool]()

    def sent(batch: HostBatch) -> PackedBatch:
        packed = send(batch)
        if threading.current_thread() is not threading.main_thread():
            ahead.append(weakref.ref(packed.ids))
            if fails == "copying ahead":
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return packed

    monkeypatch.setattr(encoder._sender, "send", sent)
    monkeypatch.setattr(WindowRun, "_release", lambda run: held.append(ahead[-1]() is not None))
    if fails == "computing":
        SmallDevice(encoder, 20)
    with AtOnce(1) as helper:
        encoder._helper = helper
        encoded = encoder.encode([text_item(30, seed=1), text_item(10, seed=2), text_item(5, seed=3)])
    assert [index for index, _ in encoded.too_large] == ([0] if fails == "computing" else [])
    assert held == [False, False]


def test_collating_ahead_gives_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, ahead = tiny_encoder(token_budget=60), tiny_encoder(token_budget=60)
    with ThreadPoolExecutor(1) as helper:
        ahead._helper = helper
        items = [*mixed_items(), *mixed_items()]
        np.testing.assert_array_equal(ahead.encode(items).vectors, plain.encode(items).vectors)


def test_two_windows_at_a_time_get_their_own_vectors() -> None:
    encoder, items = tiny_encoder(token_budget=100), mixed_items()
    expected = [encoder.encode(part).vectors for part in (items, items[::-1], items[:3])]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(encoder.encode, (items, items[::-1], items[:3])))
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got.vectors, wanted)


def test_a_model_whose_probe_does_not_fit_is_refused() -> None:
    encoder = tiny_encoder()
    SmallDevice(encoder, 1)
    with pytest.raises(ConfigError, match="not even a tiny picture fits into cpu beside the weights"):
        encoder.check_contract()


class Full(Exception):
    """Stands for the device's out-of-memory error."""


@given(st.integers(1, 10**6), st.integers(0, 10**11), st.integers(0, 10**8))
def test_the_budget_fits_the_device_and_costs_few_forwards(per_token: int, free: int, fixed: int) -> None:
    tried: list[int] = []

    def peak(budget: Budget) -> int:
        tried.append(budget.tokens)
        if (took := fixed + per_token * budget.tokens) > free:
            raise Full
        return took

    found = find_budget(peak, free, Full)
    assert 1 <= found.tokens <= GPU_TOKENS
    assert found.patches == 4 * found.tokens
    assert found.tokens in (1, GPU_TOKENS) or fixed + per_token * found.tokens <= free
    assert len(tried) <= 2 + GPU_TOKENS.bit_length()
    if fixed == 0 and per_token * max(GPU_TOKENS, TRIAL_TOKENS) <= free * 0.8:
        assert found.tokens == GPU_TOKENS


def test_filling_items_fill_a_budget_with_pictures() -> None:
    config: Any = tiny_encoder()._stock.config
    for tokens in (10, 100, 1000, 16_384):
        items = filling_items(config, tokens)
        total = sum(item.n_tokens for item in items)
        assert 0.7 * tokens <= total <= tokens
        assert sum(item.n_visual_tokens for item in items) >= total * 0.6
