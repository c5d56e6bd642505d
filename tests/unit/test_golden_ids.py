"""Every golden case through our own preparation: ids, positions and pixels of the official implementation."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest

from pipeline.config import InputsConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.prepare import Preparer
from pipeline.types import LoadedMedia, MediaKind, Modality, Prepared
from tests.fixtures.golden_cases import (
    EMBED_NAMES,
    LONG_TEXT,
    TRUNCATION_MAX_LENGTH,
    TRUNCATION_NAMES,
    embed_item,
    golden_embed,
    golden_ids,
    patchify,
    png,
    truncation_item,
)
from tests.fixtures.tokenizer import prompt_tokenizer

IMAGE_NAMES = [name for name in EMBED_NAMES if "pixel_values" in golden_embed(name)]
VIDEO_NAMES = [name for name in EMBED_NAMES if "pixel_values_videos" in golden_embed(name)]
POSITION_NAMES = [
    name for name in (*EMBED_NAMES, *TRUNCATION_NAMES) if "position_ids_sha256_i64le" in golden_embed(name)
]


@functools.cache
def prepared(name: str) -> Prepared:
    if name in TRUNCATION_NAMES:
        inputs = InputsConfig(max_length=TRUNCATION_MAX_LENGTH, over_length="reference")
        return Preparer(prompt_tokenizer(), inputs).prepare(truncation_item(name))
    return Preparer(prompt_tokenizer(), InputsConfig()).prepare(embed_item(name))


@pytest.mark.parametrize("name", [*EMBED_NAMES, *TRUNCATION_NAMES])
def test_ids_are_the_reference_s(name: str) -> None:
    assert prepared(name).input_ids.tolist() == golden_ids(name).tolist()
    assert prepared(name).truncated == (name in TRUNCATION_NAMES)


@pytest.mark.parametrize("name", POSITION_NAMES)
def test_positions_are_the_reference_s(name: str) -> None:
    want = golden_embed(name)
    positions = prepared(name).position_ids
    assert positions[:, -1].tolist() == want["position_ids_last"]
    # The reference keeps a batch axis of one between axis and token, which changes no byte.
    digest = hashlib.sha256(np.ascontiguousarray(positions, "<i8").tobytes()).hexdigest()
    assert digest == want["position_ids_sha256_i64le"]


def pixels_of(name: str, *kinds: MediaKind) -> tuple[list[list[int]], dict[str, object]]:
    """Grids, and the patches as the golden data describes them, of the visuals of `kinds`."""
    visuals = [visual for visual in prepared(name).visuals if visual.kind in kinds]
    patches = np.concatenate([patchify(visual.frames) for visual in visuals])
    digest = hashlib.sha256(patches.astype("<f4").tobytes()).hexdigest()
    return [list(visual.grid_thw) for visual in visuals], {"shape": list(patches.shape), "sha256_f32le": digest}


def of_golden(pixels: dict[str, object]) -> dict[str, object]:
    return {key: pixels[key] for key in ("shape", "sha256_f32le")}


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_image_pixels_are_the_reference_s_to_the_bit(name: str) -> None:
    want = golden_embed(name)
    grids, pixels = pixels_of(name, MediaKind.IMAGE)
    assert grids == want["image_grid_thw"]
    assert pixels == of_golden(want["pixel_values"])


@pytest.mark.parametrize("name", VIDEO_NAMES)
def test_video_pixels_are_the_reference_s_to_the_bit(name: str) -> None:
    want = golden_embed(name)
    grids, pixels = pixels_of(name, MediaKind.FRAMES, MediaKind.VIDEO)
    assert grids == want["video_grid_thw"]
    assert pixels == of_golden(want["pixel_values_videos"])


def test_facts_of_the_golden_items() -> None:
    assert prepared("text").modality is Modality.TEXT
    assert prepared("null").modality is Modality.TEXT
    assert prepared("img_L").modality is Modality.IMAGE
    assert prepared("img_text").modality is Modality.MIXED
    assert prepared("two_videos").modality is Modality.VIDEO
    assert prepared("mixed_all").modality is Modality.MIXED
    assert prepared("frames9_300x180").n_frames == 10
    assert prepared("frames70_64x64_sampled").n_frames == 64
    assert prepared("img_1920x1080_down").n_visual_tokens == 1736


def test_a_reference_cut_that_would_reach_visual_tokens_is_refused() -> None:
    # 64 tokens end inside the pads of the second image; the reference raises there.
    item = truncation_item("img_then_long_text")
    second = LoadedMedia(MediaKind.IMAGE, (png(200, 150, 1),))
    twice = type(item)(item.id, (LONG_TEXT,), (*item.media, second))
    inputs = InputsConfig(max_length=TRUNCATION_MAX_LENGTH, over_length="reference")
    with pytest.raises(RejectError) as error:
        Preparer(prompt_tokenizer(), inputs).prepare(twice)
    assert error.value.code is RejectCode.OVER_LENGTH
