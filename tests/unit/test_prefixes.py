"""Shared prefixes: taken out and put together again nothing changes, and what they teach is computed once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import engine
from pipeline.models.batch import PackedBatch
from pipeline.models.blocks import blocks_of
from pipeline.models.collate import VisionShape, collate
from pipeline.models.packed import FeatureStore, PrefixStore
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.models.schedule import Schedule
from pipeline.packing import Budget, Cost
from pipeline.prefixes import WHOLE, Prefixed, split_prefixes
from pipeline.types import MediaKind, Prepared
from tests.fixtures.golden_vectors import tiny_encoder
from tests.fixtures.prepared import PADS, image_item, item_of, mixed_item, mixed_items, text_item, visual
from tests.fixtures.small_device import SmallDevice, unit

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=20)


def item_with(ids: list[int]) -> Prepared:
    made = text_item(len(ids))
    return replace(made, input_ids=np.array(ids, np.int32), position_ids=made.position_ids[:, : len(ids)])


@given(st.lists(TOKENS, min_size=1, max_size=8), st.integers(1, 30), st.floats(0, 0.5))
def test_parts_make_up_their_items(rows: list[list[int]], least_tokens: int, least_share: float) -> None:
    items = [item_with(row) for row in rows]
    window = split_prefixes(items, [3], least_tokens=least_tokens, least_share=least_share)
    for item, part, of in zip(items, window.items, window.of, strict=True):
        whole = part if of == WHOLE else joined(window.prefixes[of], part)
        np.testing.assert_array_equal(whole.input_ids, item.input_ids)
        np.testing.assert_array_equal(whole.position_ids, item.position_ids)
        assert part.n_tokens >= 1
    assert all(3 not in prefix.input_ids for prefix in window.prefixes)
    for number, prefix in enumerate(window.prefixes):
        members = [item for item, of in zip(items, window.of, strict=True) if of == number]
        saved = prefix.n_tokens * (len(members) - 1)
        assert saved >= max(least_tokens, least_share * sum(item.n_tokens for item in members))
    assert window.saved_tokens == sum(map(len, rows)) - sum(part.n_tokens for part in (*window.prefixes, *window.items))


def test_a_prefix_is_as_long_as_it_can_be() -> None:
    items = [item_with([9, 9, 9, 9, 9, 9, 9, 9, *rest]) for rest in ([5, 6, 7], [5, 6, 8, 1], [5, 6, 7, 7])]
    window = split_prefixes([*items, item_with([1, 2])], [3], least_tokens=1, least_share=0)
    assert [prefix.input_ids.tolist() for prefix in window.prefixes] == [[9] * 8 + [5, 6]]
    assert window.of == (0, 0, 0, WHOLE)
    assert window.saved_tokens == 20


def joined(prefix: Prepared, part: Prepared) -> Prepared:
    return replace(
        part,
        input_ids=np.concatenate([prefix.input_ids, part.input_ids]),
        position_ids=np.concatenate([prefix.position_ids, part.position_ids], 1),
        visuals=(*prefix.visuals, *part.visuals),
        n_visual_tokens=prefix.n_visual_tokens + part.n_visual_tokens,
    )


def moved(part: Prepared, behind: Prepared) -> Prepared:
    return replace(part, position_ids=part.position_ids + behind.position_ids.max() + 1)


def candidate_lists() -> tuple[Prefixed, list[Prepared]]:
    """Three prefixes, of text, an image and everything, with several continuations each, and two whole items; and the
    same written out."""
    prefixes = [text_item(20, seed=20), image_item(seed=21), mixed_item(seed=22)]
    parts = [*mixed_items(), text_item(12, seed=23)]
    of = [0, 1, 2, 0, 1, WHOLE, 0, 2, WHOLE]
    placed = [part if each == WHOLE else moved(part, prefixes[each]) for part, each in zip(parts, of, strict=True)]
    whole = [part if each == WHOLE else joined(prefixes[each], part) for part, each in zip(placed, of, strict=True)]
    return Prefixed(tuple(prefixes), tuple(placed), tuple(of)), whole


@pytest.mark.parametrize("token_budget", [1, 60, 200, 5_000])
def test_continuations_equal_their_wholes(token_budget: int) -> None:
    window, whole = candidate_lists()
    encoder = tiny_encoder(token_budget=token_budget)
    encoded = encoder.run(window)
    np.testing.assert_allclose(
        unit(encoded.vectors), unit(tiny_encoder().run(Prefixed.whole(whole)).vectors), atol=1e-5
    )
    assert encoded.too_large == ()
    assert encoder._budget == Budget.of_tokens(token_budget)


def test_the_last_layer_without_its_shortcut_continues_too() -> None:
    window, whole = candidate_lists()
    encoder = tiny_encoder()
    encoder._model._shortcut = False
    expected = encoder.run(Prefixed.whole(whole)).vectors
    np.testing.assert_allclose(encoder.run(window).vectors, expected, atol=1e-5)


def computed_tokens(encoder: Qwen3VLEncoder, items: list[Prepared]) -> tuple[int, np.ndarray]:
    device = SmallDevice(encoder, 1 << 30)
    vectors = encoder.encode(items).vectors
    return sum(device.sizes), vectors


def test_an_instruction_is_computed_once() -> None:
    instruction = text_item(57, seed=1)
    items = [joined(instruction, moved(part, instruction)) for part in (*mixed_items(), *mixed_items())]
    shared, vectors = computed_tokens(tiny_encoder(), items)
    whole, expected = computed_tokens(tiny_encoder(strict_rounding=True), items)
    assert whole == sum(item.n_tokens for item in items)
    # The items' own random beginnings differ, so exactly the instruction is common.
    assert shared == whole - (len(items) - 1) * instruction.n_tokens
    np.testing.assert_allclose(unit(vectors), unit(expected), atol=1e-5)


def test_nothing_is_shared_where_the_sums_would_cost_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    instruction = text_item(57, seed=1)
    items = [joined(instruction, moved(part, instruction)) for part in (*mixed_items(), *mixed_items())]
    assert tiny_encoder().parts(items).prefixes
    monkeypatch.setattr(engine, "sums_cost_memory", lambda name, device: (name, device.type) == ("sdpa", "cpu"))
    assert tiny_encoder().parts(items) == Prefixed.whole(items)


class Watched(SmallDevice):
    """How many prefixes and pictures it held whenever items came."""

    def __init__(self, encoder: Qwen3VLEncoder) -> None:
        super().__init__(encoder, 1 << 30)
        self.held: list[tuple[int, int]] = []

    def __call__(
        self, batch: PackedBatch, store: FeatureStore, keep: Collection[int], prefixes: PrefixStore
    ) -> torch.Tensor:
        self.held.append((len(prefixes), len(store)))
        return super().__call__(batch, store, keep, prefixes)


def test_what_no_item_needs_any_more_is_let_go() -> None:
    window, _ = candidate_lists()
    encoder = tiny_encoder(token_budget=1)
    device = Watched(encoder)
    # The packing is that of items: a prefix's forward does not count.
    assert encoder.run(window).forwards == len(device.held) == len(window.items)
    assert max(prefixes for prefixes, _ in device.held) == 1
    shared = visual(MediaKind.IMAGE, 1, 64, 96, seed=3)
    device.held.clear()
    encoder.encode([item_of([shared], 30, seed=1), item_of([shared], 20, seed=2), text_item(5, seed=3)])
    assert device.held == [(0, 0), (0, 1), (0, 0)]


def test_a_prefix_that_saves_little_is_left_alone() -> None:
    items = [text_item(30, seed=1), text_item(30, seed=1), text_item(30, seed=2)]
    computed, _ = computed_tokens(tiny_encoder(), items)
    assert computed == sum(item.n_tokens for item in items)


def test_what_continues_a_prefix_that_does_not_fit_is_lost_and_nothing_else() -> None:
    window, whole = candidate_lists()
    expected = tiny_encoder().run(Prefixed.whole(whole)).vectors
    encoder = tiny_encoder()
    SmallDevice(encoder, 67)  # the longest part has 65 tokens
    long = text_item(90, seed=30)
    parts = [*window.items, moved(text_item(4, seed=31), long), moved(text_item(5, seed=32), long)]
    encoded = encoder.run(Prefixed((*window.prefixes, long), tuple(parts), (*window.of, 3, 3)))
    assert [index for index, _ in encoded.too_large] == [9, 10]
    assert np.isnan(encoded.vectors[9:]).all()
    np.testing.assert_allclose(unit(encoded.vectors[:9]), unit(expected), atol=1e-5)


def test_items_of_one_prefix_must_stand_together() -> None:
    items = [text_item(3), text_item(4), text_item(5)]
    for prefixes in ([(7, 2), (8, 2), (7, 2)], [(WHOLE, 0), (7, 2), (7, 2)]):
        with pytest.raises(ValueError, match="must stand together"):
            collate(items, blocks_of(items), (), VisionShape(tuple(PADS.values()), 48), prefixes)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.integers(WHOLE, 4)), min_size=1, max_size=40),
    st.lists(st.integers(1, 99), min_size=5, max_size=5),
    st.lists(st.booleans(), max_size=12),
)
def test_a_prefix_comes_before_its_items_however_often_batches_fail(
    items: list[tuple[int, int]], prefixes: list[int], fails: list[bool]
) -> None:
    costs = [Cost(tokens, 0) for tokens, _ in items] + [Cost(tokens, 0) for tokens in prefixes]
    of = [each for _, each in items]
    budget = Budget.of_tokens(150)
    schedule = Schedule(costs, [frozenset()] * len(costs), budget, of=of)
    done: list[int] = []
    while schedule:
        indices = schedule.take()
        if len(indices) > 1 and fails and fails.pop():
            schedule.again(indices, schedule.budget.after_failure(schedule.costs_of(indices)))
            continue
        assert len({schedule.is_prefix(unit) for unit in indices}) == 1
        if not schedule.is_prefix(indices[0]):
            needed = [schedule.prefix_of(item) for item in indices]
            assert {each for each in needed if each != WHOLE} <= set(done)
            groups = [each for place, each in enumerate(needed) if place == 0 or needed[place - 1] != each]
            assert len(groups) == len(set(groups))
            assert WHOLE not in groups[:-1]
        done += indices
        for prefix in range(len(of), len(costs)):
            left = [item for item in range(len(of)) if item not in done and schedule.prefix_of(item) == prefix]
            assert schedule.continued_later(prefix) == bool(left)
    assert sorted(done) == list(range(len(costs)))


def test_a_wave_of_prefixes_is_as_large_as_a_batch_at_most() -> None:
    costs = [Cost(10, 0)] * 4 + [Cost(60, 0)] * 4
    schedule = Schedule(costs, [frozenset()] * 8, Budget.of_tokens(125), of=[0, 1, 2, 3])
    taken = []
    while schedule:
        taken.append(set(schedule.take()))
    assert taken == [{4, 5}, {0, 1}, {6, 7}, {2, 3}]


def test_sixteen_bits_share_as_well_as_they_attend() -> None:
    window, whole = candidate_lists()
    exact = unit(tiny_encoder().run(Prefixed.whole(whole)).vectors)
    encoder = tiny_encoder(dtype="bfloat16")
    shared, alone = unit(encoder.run(window).vectors), unit(encoder.run(Prefixed.whole(whole)).vectors)
    errors = [1 - (each * exact).sum(1).min() for each in (shared, alone)]
    assert errors[0] <= 2 * errors[1] + 1e-4
    assert torch.tensor(errors).max() < 0.05
