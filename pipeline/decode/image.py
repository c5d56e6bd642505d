"""Picture bytes into RGB pixels, exactly as the model's reference sees them.

In: the bytes of one image file. Out: a `Picture`, and resized uint8 arrays. Refused: empty files (EMPTY_MEDIA), formats
outside the list of `pipeline.sniff` (UNSUPPORTED_FORMAT), more pixels or metadata than the limits allow
(IMAGE_TOO_LARGE: from what the file declares, before a pixel is decoded, and again once it is), and damage
(IMAGE_UNREADABLE).

Of a file with many pictures (animations, pages, a phone's pairs) the first one counts, and no other is looked at.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from pipeline.config import DecodeConfig
from pipeline.decode.fast_resize import resize_fast
from pipeline.decode.jpeg import decode_jpeg
from pipeline.decode.limits import DEFAULT_LIMITS, check_jpeg, check_tiff
from pipeline.decode.native import DAMAGE, translated
from pipeline.errors import RejectCode, RejectError
from pipeline.sniff import MediaFormat, sniff

__all__ = ["Picture", "decode_image", "image_size", "resize_image", "settle_limits"]

Picture = Image.Image | NDArray[np.uint8]
"""A decoded picture: a Pillow image in mode RGB, or uint8[h, w, 3] where the decoder gave that at once."""

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

_CHECKS = {MediaFormat.JPEG: check_jpeg, MediaFormat.TIFF: check_tiff}

_TEXT_LIMITS = "MAX_TEXT"
"""In both messages of Pillow that speak of its limits on what PNG chunks unpack to."""

_TILE_SIDES = (322, 323)  # TIFF 6.0, section 15: TileWidth and TileLength

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


def decode_image(data: bytes, *, exif: bool, limits: DecodeConfig = DEFAULT_LIMITS) -> Picture:
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
            if found in _CHECKS:
                _CHECKS[found](data, limits)
            with _bombs_refused(found, limits):
                image = _open(data, found, limits)
            pixels = decode_jpeg(data, *image_size(image)) if found is MediaFormat.JPEG else None
            if pixels is None:
                with _bombs_refused(found, limits):
                    image.load()
                _check_pixels(*image.size, limits)
            # Only now: some formats keep their EXIF behind the pixels.
            turn = _UPRIGHT.get(_orientation(image)) if exif else None
            if pixels is not None:
                return pixels if turn is None else Image.fromarray(pixels).transpose(turn)
            return _to_rgb(image if turn is None else image.transpose(turn))


def settle_limits(limits: DecodeConfig) -> None:
    """Give Pillow's own limits, which are the process's, the values of `limits`.

    They also hold where it meets a size only while it reads. Of texts, four as large as one may be are allowed in all.
    """
    Image.MAX_IMAGE_PIXELS = max(1, limits.max_image_pixels // 2)  # it refuses beyond twice that, and else warns
    PngImagePlugin.MAX_TEXT_CHUNK = limits.max_metadata_bytes
    PngImagePlugin.MAX_TEXT_MEMORY = 4 * limits.max_metadata_bytes


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


def _open(data: bytes, found: MediaFormat, limits: DecodeConfig) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=[_PILLOW_NAMES[found]])
    _check_pixels(*image.size, limits)
    tags = getattr(image, "tag_v2", {})
    width_px, height_px = (tags.get(side) for side in _TILE_SIDES)
    if isinstance(width_px, int) and isinstance(height_px, int):
        # A tile is decoded whole, however little of it lies within the picture.
        _check_pixels(width_px, height_px, limits)
    return image


@contextmanager
def _bombs_refused(found: MediaFormat, limits: DecodeConfig) -> Iterator[None]:
    """Give Pillow's own refusals their code: on opening, and on loading, which reads the texts behind the pixels."""
    try:
        yield
    except Image.DecompressionBombError as error:
        said = str(error).partition(",")[0]
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, f"{said}; see decode.max_image_pixels") from None
    except ValueError as error:
        if _TEXT_LIMITS not in str(error):
            raise
        raise RejectError(
            RejectCode.IMAGE_TOO_LARGE,
            f"a text or profile of the {found} image unpacks to more than {limits.max_metadata_bytes} bytes",
        ) from None


def _check_pixels(width_px: int, height_px: int, limits: DecodeConfig) -> None:
    if width_px * height_px > limits.max_image_pixels:
        detail = f"{width_px}×{height_px} px is more than decode.max_image_pixels: {limits.max_image_pixels}"
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, detail)


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
