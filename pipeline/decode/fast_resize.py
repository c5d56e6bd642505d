"""Pillow's bicubic resize by SIMD, several times as fast and off by a level here and there: for `resize: fast`.

In: uint8 RGB. Out: uint8 RGB of the wanted size. Refused: nothing but a machine without the extra (ConfigError).

The kernel is Pillow's, and so is the order of its two passes and the rounding to whole levels in between; but weights
have 16 bits instead of 22. So a pass is off by one level where Pillow's value lies within a few hundredths of half-way
between two. Such misses in the first pass can add up in the second: the result is off by at most two levels, and by two
in about one value in a million.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

__all__ = ["check_fast_resize", "resize_fast"]


def check_fast_resize() -> None:
    """Raise ConfigError, saying what to install, if this machine cannot resize fast."""
    _library()


def resize_fast(pixels: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """uint8[h, w, 3] → uint8[height_px, width_px, 3]."""
    library = _library()
    height, width, _ = pixels.shape
    options = library.ResizeOptions(library.ResizeAlg.convolution(library.FilterType.catmull_rom))
    resizer = library.Resizer()
    picture = library.ImageData(width, height, library.PixelType.U8x3, pixels.tobytes())
    for between_height, between_width in (_between(height, width, height_px, width_px), (height_px, width_px)):
        target = library.ImageData(between_width, between_height, library.PixelType.U8x3)
        resizer.resize(picture, target, options)
        picture = target
    return np.frombuffer(picture.get_buffer(), np.uint8).reshape(height_px, width_px, 3)


def _between(height: int, width: int, height_px: int, width_px: int) -> tuple[int, int]:
    """The size between the passes: Pillow 13 begins with the height where that loses the most pixels by far.

    Overshoot is clipped after each pass, so the other order is another picture.
    """
    lost = height - height_px
    return (height_px, width) if lost > max(0, 2 * (width - width_px)) else (height, width_px)


@cache
def _library() -> Any:  # noqa: ANN401 - a module that need not be there
    try:
        return importlib.import_module("cykooz_resizer")
    except ImportError:
        raise ConfigError("inputs.image.resize: fast needs the extra: pip install 'lakevec[fast-resize]'") from None
