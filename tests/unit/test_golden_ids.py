"""Every golden case through our own preparation: ids, positions and pixels of the official implementation."""

from __future__ import annotations

import functools
import hashlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.budget import frame_list_first_size
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
    formula_image,
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

FILE_FRAMES = {
    "vidfile_300f_25fps_320x240": (300, 12),
    "vidfile_fps2_max6": (300, 6),
    "vidfile_short_3f": (3, 2),
}
"""Frames in each golden file, and how many the reference took."""


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


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_image_pixels_are_the_reference_s_to_the_bit(name: str) -> None:
    images = [visual for visual in prepared(name).visuals if visual.kind is MediaKind.IMAGE]
    patches = np.concatenate([patchify(visual.frames) for visual in images])
    assert [list(visual.grid_thw) for visual in images] == golden_embed(name)["image_grid_thw"]
    want = golden_embed(name)["pixel_values"]
    assert list(patches.shape) == want["shape"]
    assert hashlib.sha256(patches.astype("<f4").tobytes()).hexdigest() == want["sha256_f32le"]


def reference_frames(medium: LoadedMedia, name: str, grid_thw: list[int]) -> np.ndarray:
    """The reference's own resizing on torch; the digest in the test below shows that it is."""
    if medium.kind is MediaKind.FRAMES:
        chosen = np.linspace(0, len(medium.blobs) - 1, min(len(medium.blobs), 64), dtype=int)
        opened = [Image.open(io.BytesIO(medium.blobs[index])) for index in chosen]
        first = frame_list_first_size(opened[0].height, opened[0].width)
        stack = [np.asarray(image.resize(first[::-1])) for image in opened]
        stack += stack[-1:] * (len(stack) % 2)
    else:
        n_total, n_frames = FILE_FRAMES[name]
        seeds = torch.linspace(0, n_total - 1, n_frames).round().long().tolist()
        stack = [formula_image(320, 240, seed) for seed in seeds]
    planes = torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).float()
    size = (grid_thw[1] * 16, grid_thw[2] * 16)
    resized = torch.nn.functional.interpolate(planes, size, mode="bicubic", antialias=True)
    return resized.clamp(0, 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.mark.parametrize("name", VIDEO_NAMES)
def test_video_pixels_are_the_reference_s_but_for_rounding_ties(name: str) -> None:
    want = golden_embed(name)
    media = [medium for medium in embed_item(name).media if medium.kind is not MediaKind.IMAGE]
    reference = [
        reference_frames(medium, name, grid) for medium, grid in zip(media, want["video_grid_thw"], strict=True)
    ]
    patches = np.concatenate([patchify(frames) for frames in reference])
    assert hashlib.sha256(patches.astype("<f4").tobytes()).hexdigest() == want["pixel_values_videos"]["sha256_f32le"]

    ours = [visual for visual in prepared(name).visuals if visual.kind is not MediaKind.IMAGE]
    assert [list(visual.grid_thw) for visual in ours] == want["video_grid_thw"]
    for visual, frames in zip(ours, reference, strict=True):
        levels = np.abs(visual.frames.astype(int) - frames)
        assert levels.max() <= 1
        assert levels.mean() <= 2e-3  # the whole ratios of these sizes make more ties than photos do


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
