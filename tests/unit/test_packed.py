"""The packed forward: equal to the unpacked one in any company, nothing asked of the device, nothing computed twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.models.batch import PackedBatch, PackedPictures
from pipeline.models.blocks import blocks_of
from pipeline.models.collate import collate
from pipeline.models.packed import PackedModel
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.types import MediaKind, Prepared, Visual
from tests.fixtures.golden_cases import EMBED_NAMES, TRUNCATION_NAMES
from tests.fixtures.golden_vectors import golden_error, golden_prepared, tiny_encoder
from tests.fixtures.prepared import image_item, item_of, mixed_item, mixed_items, text_item, visual
from tests.fixtures.small_device import unit

# The three longest cases cost more than all others; alone they are in test_golden_vectors.
LONG = ("frames70_64x64_sampled", "img_1920x1080_down", "vidfile_300f_25fps_320x240")
NAMES = [name for name in (*EMBED_NAMES, *TRUNCATION_NAMES) if name not in LONG]


@pytest.fixture(scope="module")
def encoder() -> Qwen3VLEncoder:
    return tiny_encoder()


def unpacked(encoder: Qwen3VLEncoder, item: Prepared) -> np.ndarray:
    """The stock model's own forward of one item: its positions, its vision tower, its attention."""
    stock: Any = encoder._stock
    ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
    inputs: dict[str, torch.Tensor] = {"mm_token_type_ids": (ids == 151655).int() + 2 * (ids == 151656).int()}
    for prefix, suffix, of_images in (("image", "", True), ("video", "_videos", False)):
        chosen = [one for one in item.visuals if (one.kind is MediaKind.IMAGE) == of_images]
        if chosen:
            inputs[f"pixel_values{suffix}"] = torch.cat([patches(one) for one in chosen])
            inputs[f"{prefix}_grid_thw"] = torch.tensor([one.grid_thw for one in chosen])
    with torch.inference_mode():
        vector: np.ndarray = stock(input_ids=ids, **inputs).last_hidden_state[0, -1:].numpy()
    return vector


def patches(one: Visual) -> torch.Tensor:
    frames = torch.from_numpy(one.frames.copy())
    frames = frames.repeat(2, 1, 1, 1) if len(frames) == 1 else frames
    t, height, width, _ = frames.shape
    tiles = frames.reshape(t // 2, 2, height // 32, 2, 16, width // 32, 2, 16, 3).permute(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return (tiles.reshape(-1, 1536).float() - 127.5) / 127.5


@pytest.mark.parametrize("seed", [1, 2])
def test_golden_cases_in_random_companies_keep_their_vectors(seed: int) -> None:
    names = NAMES.copy()
    random.Random(seed).shuffle(names)
    budgeted = tiny_encoder(token_budget=random.Random(seed).randint(100, 900))
    assert golden_error(budgeted, names).max() <= 1e-5


def test_packed_equals_unpacked(encoder: Qwen3VLEncoder) -> None:
    items = [*mixed_items(), *(golden_prepared(name) for name in ("mixed_all", "two_videos"))]
    expected = np.concatenate([unpacked(encoder, item) for item in items])
    np.testing.assert_allclose(unit(encoder.encode(items).vectors), unit(expected), atol=1e-5)


def test_the_last_layer_for_pooled_tokens_only_changes_nothing(encoder: Qwen3VLEncoder) -> None:
    items, full = mixed_items(), tiny_encoder()
    full._model._shortcut = False
    np.testing.assert_allclose(full.encode(items).vectors, encoder.encode(items).vectors, atol=2e-6)


class Operations(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.masks = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        if func.overloadpacket.__name__ in ("index", "index_put", "index_put_", "masked_scatter"):
            indices = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
            self.masks += any(one is not None and one.dtype == torch.bool for one in indices)
        return func(*args, **(kwargs or {}))


READ_BACK = ("_local_scalar_dense", "nonzero", "item", "masked_select", "unique", "_unique2")


def test_the_operations_that_are_counted_can_be_seen() -> None:
    with torch.no_grad(), Operations() as operations:
        mask = torch.tensor([True, False])
        torch.ones(2)[mask].sum().item()
    assert operations.masks == 1
    assert operations.seen["_local_scalar_dense"] == 1


def test_a_forward_asks_the_device_nothing_and_attends_once_a_layer(encoder: Qwen3VLEncoder) -> None:
    calls: Counter[bool] = Counter()
    right = encoder._model._attention

    class Counted:
        def __call__(self, *args: Any, causal: bool) -> torch.Tensor:
            calls[causal] += 1
            return right(*args, causal=causal)

        def with_lse(self, *args: Any, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
            calls[causal] += 1
            return right.with_lse(*args, causal=causal)

    counting, items = tiny_encoder(), mixed_items()
    counting._model._attention = counting._model._vision._attention = Counted()

    def sent(units: Sequence[Prepared], continued: Sequence[tuple[int, int]] = ()) -> PackedBatch:
        return counting._sender.send(collate(units, blocks_of(units), (), counting._shape, continued))

    batch = sent(items)
    # Without inference mode, for there composite operations would hide what they do.
    forward, read = PackedModel.__call__.__wrapped__, PackedModel.read.__wrapped__  # type: ignore[attr-defined]
    with torch.no_grad(), Operations() as operations:
        forward(counting._model, batch, {})
    assert sum(operations.seen[name] for name in READ_BACK) == 0
    assert operations.masks == 0
    assert operations.seen["mm"] + operations.seen["addmm"] > 20  # it did see the forward
    # Four vision layers; three text layers with every query, the last with the pooled ones.
    assert sum(calls.values()) == 4 + 4
    beginnings = [mixed_item(), text_item(9)]
    lengths = [(key, beginning.n_tokens) for key, beginning in zip((7, 8), beginnings, strict=True)]
    prefixes, parts = sent(beginnings), sent(items, [lengths[1]] * 3 + [lengths[0]] * 5)
    calls.clear()
    with torch.no_grad(), Operations() as operations:
        stored = dict(zip((7, 8), read(counting._model, prefixes, {}), strict=True))
        forward(counting._model, parts, {}, (), stored)
    assert sum(operations.seen[name] for name in READ_BACK) == 0
    assert operations.masks == 0
    # A prefix's last layer only reads; behind one, each layer attends twice.
    assert sum(calls.values()) == 4 + 3 + 4 + 2 * 4


def vision_patches(encoder: Qwen3VLEncoder, items: Sequence[Prepared]) -> int:
    """Patches that the vision tower computed for `items`."""
    right, seen = encoder._model._vision, list[int]()

    def counted(pictures: PackedPictures) -> list[torch.Tensor]:
        seen.extend(pictures.segments.lengths)
        return right(pictures)

    encoder._model._vision = counted  # type: ignore[assignment]
    try:
        encoder.encode(items)
    finally:
        encoder._model._vision = right
    return sum(seen)


def test_equal_pictures_are_computed_once_in_a_window() -> None:
    shared = visual(MediaKind.IMAGE, 1, 64, 96, seed=3)
    other = visual(MediaKind.IMAGE, 1, 64, 96, seed=4)
    items = [item_of([shared], 5, seed=1), item_of([other, shared], 9, seed=2), item_of([shared, shared], 2, seed=3)]
    for token_budget in (1000, 1):
        encoder = tiny_encoder(token_budget=token_budget)
        expected = np.concatenate([encoder.encode([item]).vectors for item in items])
        assert vision_patches(encoder, items) == 2 * 24
        np.testing.assert_allclose(encoder.encode(items).vectors, expected, atol=5e-6)
        assert not np.allclose(expected[0], expected[2], atol=1e-2)


def test_a_static_clip_costs_one_block() -> None:
    moving = visual(MediaKind.VIDEO, 6, 64, 64, seed=5)
    static = replace(moving, frames=np.concatenate([moving.frames[:2]] * 3))
    encoder = tiny_encoder()
    assert vision_patches(encoder, [item_of([moving], 3)]) == 3 * 16
    assert vision_patches(encoder, [item_of([static], 3)]) == 16
    vector = encoder.encode([item_of([static], 3)]).vectors
    np.testing.assert_allclose(vector, unpacked(encoder, item_of([static], 3)), atol=5e-6)


def test_deterministic_shares_nothing_between_items() -> None:
    shared = visual(MediaKind.IMAGE, 1, 64, 96, seed=3)
    items = [item_of([shared], 5, seed=1), item_of([shared], 9, seed=2), mixed_item(), text_item(30), image_item()]
    encoder = tiny_encoder(deterministic=True)
    alone = np.concatenate([encoder.encode([item]).vectors for item in items])
    np.testing.assert_array_equal(encoder.encode(items).vectors, alone)
    np.testing.assert_array_equal(encoder.encode(items[::-1]).vectors[::-1], alone)
    assert vision_patches(encoder, items[:2]) == 2 * 24
