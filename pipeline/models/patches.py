"""Pixels on the device: uint8 frames in, normalised vision patches out, in the order the vision tower wants.

The order is (T/2, H/32, W/32, 2, 2, C, 2, 16, 16): the 2×2 patches of one visual token lie together. Normalising
after the transfer keeps the transfer at one byte a value.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.budget import MERGE, PATCH_PX, TEMPORAL_PATCH

__all__ = ["PATCH_VALUES", "LinearPatchEmbed", "patchify", "patchify_blocks"]

CHANNELS = 3
PATCH_VALUES = CHANNELS * TEMPORAL_PATCH * PATCH_PX * PATCH_PX

MIDDLE_LEVEL = 127.5
"""Mean 0.5 and standard deviation 0.5 of rescaled pixels, fused: (x/255 − 0.5)/0.5 = (x − 127.5)/127.5."""


def patchify(frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Patches [T·H·W, 1536] of one visual's `frames` (uint8[t, height_px, width_px, 3], t = 1 or even).

    An image's single frame stands for two. Normalised in float32 before the cast to `dtype`, as the processor of
    the reference does, so that float32 patches equal its own bit for bit.
    """
    return patchify_blocks(frames.reshape(-1, min(len(frames), TEMPORAL_PATCH), *frames.shape[1:]), dtype)


def patchify_blocks(blocks: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Patches [n·H·W, 1536] of `blocks` (uint8[n, t, height_px, width_px, 3]): temporal patches of 1 or 2 frames."""
    n, _, height_px, width_px, channels = blocks.shape
    rows, columns = height_px // (MERGE * PATCH_PX), width_px // (MERGE * PATCH_PX)
    pairs = blocks.expand(n, TEMPORAL_PATCH, height_px, width_px, channels)
    tiles = pairs.reshape(n, TEMPORAL_PATCH, rows, MERGE, PATCH_PX, columns, MERGE, PATCH_PX, channels)
    patches = tiles.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, PATCH_VALUES)
    return patches.to(torch.float32).sub_(MIDDLE_LEVEL).div_(MIDDLE_LEVEL).to(dtype)


class LinearPatchEmbed(nn.Module):
    """The patch embedding as the matrix product it is.

    The stock module is a Conv3d whose kernel equals its stride. Some cuDNN builds run that orders of magnitude
    slower than a product, and in TF32 when the weights are float32; the values are the same.
    """

    def __init__(self, convolution: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            convolution.weight.detach().reshape(convolution.out_channels, -1), requires_grad=False
        )
        self.bias = None
        if convolution.bias is not None:
            self.bias = nn.Parameter(convolution.bias.detach(), requires_grad=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Embeddings [n, vision hidden] of `patches` [n, 1536]."""
        return nn.functional.linear(patches.to(self.weight.dtype), self.weight, self.bias)
