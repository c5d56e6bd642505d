"""Patches equal those of the stock processor, and the linear patch embedding equals the convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen2VLImageProcessorPil

from pipeline.models.patches import PATCH_VALUES, LinearPatchEmbed, patchify


def pixels(t: int, height_px: int, width_px: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (t, height_px, width_px, 3), np.uint8)


def by_loops(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The patch order spelt out: temporal patch, block row and column, row and column in the block."""
    if len(frames) == 1:
        frames = np.repeat(frames, 2, axis=0)
    rows = []
    for t in range(0, len(frames), 2):
        for top in range(0, frames.shape[1], 32):
            for left in range(0, frames.shape[2], 32):
                for y in (top, top + 16):
                    for x in (left, left + 16):
                        patch = frames[t : t + 2, y : y + 16, x : x + 16]
                        rows.append(patch.transpose(3, 0, 1, 2).reshape(-1))
    return (np.stack(rows).astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


@pytest.mark.parametrize(("t", "height_px", "width_px"), [(1, 32, 32), (1, 96, 64), (2, 32, 96), (6, 64, 128)])
def test_patches_are_bit_equal_to_the_order_spelt_out(t: int, height_px: int, width_px: int) -> None:
    frames = pixels(t, height_px, width_px)
    patches = patchify(torch.from_numpy(frames)).numpy()
    assert patches.shape == (max(1, t // 2) * (height_px // 16) * (width_px // 16), PATCH_VALUES)
    np.testing.assert_array_equal(patches, by_loops(frames))


def test_an_image_has_the_patches_of_the_stock_processor() -> None:
    frames = pixels(1, 96, 160)
    processor = Qwen2VLImageProcessorPil(patch_size=16, do_resize=False, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    stock = processor(images=[frames[0]], return_tensors="np", input_data_format="channels_last")
    assert stock["image_grid_thw"].tolist() == [[1, 6, 10]]
    # The Pillow processor rescales and normalises in two steps: one rounding more.
    np.testing.assert_allclose(patchify(torch.from_numpy(frames)).numpy(), stock["pixel_values"], atol=2e-7)


def test_bfloat16_patches_are_the_rounded_float32_ones() -> None:
    frames = torch.from_numpy(pixels(2, 64, 64))
    assert torch.equal(patchify(frames, torch.bfloat16), patchify(frames).bfloat16())


def test_patchify_leaves_its_input_alone() -> None:
    frames = torch.from_numpy(pixels(2, 32, 32))
    before = frames.clone()
    patchify(frames)
    assert torch.equal(frames, before)


def test_the_linear_patch_embedding_equals_the_convolution() -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv3d(3, 32, kernel_size=(2, 16, 16), stride=(2, 16, 16))
    patches = patchify(torch.from_numpy(pixels(4, 64, 96)))
    expected = convolution(patches.view(-1, 3, 2, 16, 16)).view(-1, 32)
    torch.testing.assert_close(LinearPatchEmbed(convolution)(patches), expected, atol=1e-5, rtol=0)
