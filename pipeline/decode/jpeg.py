"""A JPEG's pixels by libjpeg-turbo straight into an array, wherever they are the pixels that Pillow gives.

In: the bytes of a JPEG that Pillow has opened, so that its header is sound and its size within the limits. Out: uint8
RGB, or None for whatever is not plainly whole and grey or YCbCr: other colour spaces (CMYK, YCCK, RGB), damage, and
anything libjpeg-turbo so much as warns of. Nothing is refused here: those are Pillow's to decode or to refuse, so the
outcome of a file never depends on which of the two was asked first.

Pillow decodes by libjpeg-turbo too, so the pixels are equal (tests hold them so); what this saves is Pillow's detour
over four bytes a pixel, and two copies of the picture.
"""

from __future__ import annotations

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from pipeline.decode.native import DAMAGE

__all__ = ["decode_jpeg"]

COLOUR_SPACES = frozenset({"Gray", "YCbCr"})
"""Those that every decoder turns into RGB by the one formula of JFIF."""


def decode_jpeg(data: bytes, height_px: int, width_px: int) -> NDArray[np.uint8] | None:
    """`data` as uint8[height_px, width_px, 3], or None where only Pillow should judge it.

    The size is the one that Pillow read in the header; a file that reads otherwise here is left to Pillow.
    """
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data, strict=True)
        if (height, width) != (height_px, width_px) or colour_space not in COLOUR_SPACES:
            return None
        # `strict` makes errors of libjpeg's warnings, after which the pixels are guesses.
        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True), np.uint8)
    except DAMAGE:
        return None
