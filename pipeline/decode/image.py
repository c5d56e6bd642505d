"""Picture bytes into RGB pixels, exactly as the model's reference sees them.

In: the bytes of one image file. Out: a `Picture`, and resized uint8 arrays. Refused: empty files (EMPTY_MEDIA), formats
outside the list of `pipeline.sniff` (UNSUPPORTED_FORMAT), more pixels than `MAX_IMAGE_PX` (IMAGE_TOO_LARGE, from the
declared size, before a pixel is decoded), and damage (IMAGE_UNREADABLE).
"""

from __future__ import annotations

import importlib
import io
import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode.fast_resize import resize_fast
from pipeline.decode.jpeg import decode_jpeg
from pipeline.decode.native import DAMAGE, translated
from pipeline.errors import RejectCode, RejectError
from pipeline.sniff import MediaFormat, sniff

__all__ = ["MAX_IMAGE_PX", "Picture", "decode_image", "image_size", "resize_image"]

Picture = Image.Image | NDArray[np.uint8]
"""A decoded picture: a Pillow image in mode RGB, or uint8[h, w, 3] where the decoder gave that at once."""

MAX_IMAGE_PX = 178_956_970
"""Pixels at which Pillow itself refuses by default (twice a quarter of 1 GiB in RGB): what the reference opens is
opened. Such an image costs 0.5 GiB in RGB, up to 1.5 GiB with alpha (picture, white ground, a turned copy)."""

_PILLOW_NAMES = {
    MediaFormat.JPEG: "JPEG",
    MediaFormat.PNG: "PNG",
    MediaFormat.WEBP: "WEBP",
    MediaFormat.GIF: "GIF",
    MediaFormat.BMP: "BMP",
    MediaFormat.TIFF: "TIFF",
    MediaFormat.AVIF: "AVIF",
    MediaFormat.HEIC: "HEIF",
}

EXIF_ORIENTATION = 0x0112

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (CIPA DC-008, tag 274); 1 and unknown values are upright."""


def decode_image(data: bytes, *, exif: bool) -> Picture:
    """The first frame of `data` in RGB, turned upright by its EXIF orientation if `exif`.

    Order: decode, orient, then RGB. RGBA is composited on white and every other mode goes through
    `convert("RGB")`, as the reference does; so LA and palettes with transparency lose their alpha instead. HEIC and
    TIFF store their turn in the picture itself, and their decoders apply it whatever `exif` says.
    Raises RejectError (EMPTY_MEDIA, UNSUPPORTED_FORMAT, IMAGE_TOO_LARGE, IMAGE_UNREADABLE).
    """
    if not data:
        raise RejectError(RejectCode.EMPTY_MEDIA, "the image has no bytes")
    found = _image_format(data)
    with warnings.catch_warnings():
        # Pillow's own notices on odd tags and large sizes would reach a job's log once an item.
        warnings.simplefilter("ignore")
        with translated(RejectCode.IMAGE_UNREADABLE, f"{found} image"):
            image = _open(data, found)
            pixels = decode_jpeg(data, *image_size(image)) if found is MediaFormat.JPEG else None
            if pixels is None:
                image.load()
            # Only now: some formats keep their EXIF behind the pixels.
            turn = _UPRIGHT.get(_orientation(image)) if exif else None
            if pixels is not None:
                return pixels if turn is None else Image.fromarray(pixels).transpose(turn)
            return _to_rgb(image if turn is None else image.transpose(turn))


def image_size(picture: Picture) -> tuple[int, int]:
    """(height_px, width_px) of `picture`."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def resize_image(picture: Picture, height_px: int, width_px: int, *, fast: bool = False) -> NDArray[np.uint8]:
    """`picture` as uint8[height_px, width_px, 3], by Pillow's own bicubic: the reference's first resize, to the bit.

    With `fast` by `pipeline.decode.fast_resize` instead. Raises ConfigError where that is not installed.
    """
    if image_size(picture) == (height_px, width_px):
        return np.asarray(picture)
    if fast:
        return resize_fast(np.asarray(picture), height_px, width_px)
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    return np.asarray(image.resize((width_px, height_px)))


def _image_format(data: bytes) -> MediaFormat:
    found = sniff(data)
    if found is None:
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, "the bytes start like no image format that lakevec reads")
    if not found.is_image:
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, f"this is {found} video; give it in the video column")
    if found is MediaFormat.HEIC and not _register_heif():
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, "HEIC needs the extra: pip install 'lakevec[heif]'")
    return found


@cache
def _register_heif() -> bool:
    try:
        heif = importlib.import_module("pillow_heif")
    except ImportError:
        return False
    heif.register_heif_opener(thumbnails=False)
    return True


def _open(data: bytes, found: MediaFormat) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[found]])
    except Image.DecompressionBombError as error:
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, str(error)) from None
    if image.width * image.height > MAX_IMAGE_PX:
        detail = f"{image.width}×{image.height} px is more than {MAX_IMAGE_PX} px in all"
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, detail)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGE:
        # The pixels are whole; a damaged tag only means that nobody knows which way is up.
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white
