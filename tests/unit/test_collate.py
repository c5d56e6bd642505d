"""Collating: exact rows, grids as the stock model computes them, equal blocks once, and bugs that are loud."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from pipeline.models.blocks import blocks_of
from pipeline.models.collate import VisionShape, collate
from pipeline.models.grids import grid_facts
from pipeline.types import MediaKind, Prepared
from tests.fixtures.prepared import PADS, clip_item, image_item, item_of, mixed_item, mixed_items, text_item, visual

SHAPE = VisionShape((151655, 151656), 48)


@settings(max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60))
def test_grid_facts_are_those_of_the_stock_model(half_rows: int, half_columns: int) -> None:
    rows, columns = 2 * half_rows, 2 * half_columns
    facts, grid = grid_facts(rows, columns, 48), torch.tensor([[1, rows, columns]])
    places = get_vision_position_ids(grid, 2)
    entries, weights = get_vision_interpolation_indices_and_weights(
        grid, 48, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    np.testing.assert_array_equal(facts.places, places.numpy())
    np.testing.assert_array_equal(facts.entries, entries.numpy())
    np.testing.assert_allclose(facts.weights, weights.numpy(), atol=1e-6)


ITEMS = st.lists(
    st.one_of(
        st.builds(text_item, st.integers(0, 20), st.integers(0, 9)),
        st.builds(image_item, st.sampled_from([32, 64]), st.sampled_from([64, 96]), st.integers(0, 3)),
        st.builds(clip_item, st.sampled_from([2, 4]), st.just(32), st.just(64), st.integers(0, 3)),
        st.builds(mixed_item, st.integers(0, 3)),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60)
@given(ITEMS, st.booleans())
def test_every_visual_token_shows_its_own_pixels(items: list[Prepared], share: bool) -> None:
    blocks = blocks_of(items, share=share)
    batch = collate(items, blocks, (), SHAPE)
    assert batch.ids.tolist() == [token for item in items for token in item.input_ids]
    assert batch.ids[batch.last].tolist() == [item.input_ids[-1] for item in items]
    assert set(batch.ids[batch.shown]) <= set(PADS.values())
    assert len(batch.shown) == sum(item.n_visual_tokens for item in items)
    if batch.pictures is None:
        assert len(batch.shown) == 0
        return
    # Each patch is known by the top left pixel of its visual token, in the order of the packed pixels.
    computed = tokens_of(batch.pictures.pixels, batch.pictures.stacks)
    expected = [token for item in items for one in item.visuals for token in corners(one.frames)]
    assert [computed[source] for source in batch.sources] == expected
    assert sum(batch.pictures.lengths) == len(batch.pictures.places) == len(batch.pictures.weights)
    assert len(set(batch.pictures.keys)) == len(batch.pictures.keys)


def tokens_of(pixels: np.ndarray, stacks: tuple[tuple[int, int, int, int], ...]) -> list[bytes]:
    found: list[bytes] = []
    for count, t, height_px, width_px in stacks:
        size = count * t * height_px * width_px * 3
        for frames in pixels[:size].reshape(count, t, height_px, width_px, 3):
            found += corners(frames)
        pixels = pixels[size:]
    assert len(pixels) == 0
    return found


def corners(frames: np.ndarray) -> list[bytes]:
    return [
        frames[start, top, left : left + 8].tobytes()
        for start in range(0, len(frames), 2)
        for top in range(0, frames.shape[1], 32)
        for left in range(0, frames.shape[2], 32)
    ]


def test_blocks_that_differ_in_one_value_are_two() -> None:
    one = visual(MediaKind.IMAGE, 1, 64, 64, seed=1)
    frames = one.frames.copy()
    frames[0, 33, 40, 1] ^= 1
    items = [item_of([one], 3), item_of([replace(one, frames=frames)], 3), item_of([one], 9)]
    keys = [[block.key for block in each] for each in blocks_of(items)]
    assert keys == [[0], [1], [0]]
    assert [[block.key for block in each] for each in blocks_of(items, share=False)] == [[0], [1], [2]]


def test_the_same_pixels_in_another_shape_are_another_block() -> None:
    wide = visual(MediaKind.IMAGE, 1, 32, 64, seed=1)
    high = replace(wide, frames=wide.frames.reshape(1, 64, 32, 3), grid_thw=(1, 4, 2))
    (first,), (second,) = blocks_of([item_of([wide], 3), item_of([high], 3)])
    assert first.key != second.key


def test_kept_blocks_are_borrowed_and_not_computed() -> None:
    items = [mixed_item(), image_item()]
    blocks = blocks_of(items)
    kept = {blocks[0][0].key, blocks[1][0].key}
    batch = collate(items, blocks, kept, SHAPE)
    assert batch.pictures is not None
    assert set(batch.borrowed) == kept
    assert not kept & set(batch.pictures.keys)
    everything = collate(items, blocks, {block.key for each in blocks for block in each}, SHAPE)
    assert everything.pictures is None
    assert sorted(set(everything.sources)) == list(range(len(everything.shown)))


def test_pads_without_pictures_are_a_bug_that_is_loud() -> None:
    item = image_item()
    with pytest.raises(ValueError, match="6 pad tokens stand for 0 visual tokens"):
        collate([item], [()], (), SHAPE)


def test_arrays_are_fresh_so_that_a_batch_outlives_its_window() -> None:
    items = mixed_items()
    batch = collate(items, blocks_of(items), (), SHAPE)
    assert batch.pictures is not None
    assert batch.pictures.pixels.flags.writeable
    assert not any(np.shares_memory(batch.pictures.pixels, one.frames) for item in items for one in item.visuals)
    alone = collate(items[:1], blocks_of(items[:1]), (), SHAPE)
    assert not np.shares_memory(alone.ids, items[0].input_ids)
