"""The built-in samples of `lakevec parity`: texts in several scripts, instructions, images and a frame list.

Pictures come from a formula, so that a machine without any data can compare the two paths. Nothing is refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.official import OfficialItem, OfficialMedia
from pipeline.types import MediaKind

__all__ = ["SAMPLES", "Sample", "as_item", "picture"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One item in both paths' terms: texts, and pictures as sizes (width_px, height_px) of the formula."""

    name: str
    texts: tuple[str, ...] = ()
    instruction: str | None = None
    images: tuple[tuple[int, int], ...] = ()
    frames: int = 0


FRAME_PX = (512, 384)
"""Multiples of 64 between the bounds of both resizes of a frame list: the reference leaves such frames alone."""

SAMPLES = (
    Sample("empty item"),
    Sample("English", ("A red bicycle leans against a white wall.",)),
    Sample("Chinese and Japanese", ("红色的自行车靠在白墙上。", "赤い自転車が白い壁に立てかけてある。")),
    Sample("Arabic, Hindi, emoji", ("دراجة حمراء", "लाल साइकिल", "🚲\n\n  tabs\tand  spaces  ")),
    Sample("instruction", ("bicycle",), "Retrieve images that match the caption"),
    Sample("Chinese instruction", ("自行车",), "检索与描述相符的图片。"),
    Sample("image", images=((320, 256),)),
    Sample("image scaled down", ("chart",), images=((1700, 1500),)),
    Sample("image scaled up", images=((40, 30),)),
    Sample("two images and text", ("first", "second"), images=((200, 150), (64, 96))),
    Sample("frame list", ("a clip",), frames=3),
    Sample("frame list and image", ("both",), "Describe", images=((128, 96),), frames=2),
)


def picture(width_px: int, height_px: int, seed: int) -> NDArray[np.uint8]:
    """uint8[height_px, width_px, 3]: waves of three directions, smooth enough to survive any resize."""
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float64)
    waves = [np.sin(x / 9 + seed), np.sin(y / 7 + 2 * seed), np.sin((x + y) / 13 + 3 * seed)]
    return np.rint(127.5 + 127.5 * np.stack(waves, axis=-1)).astype(np.uint8)


def as_item(sample: Sample) -> OfficialItem:
    """`sample` as our path takes it: pictures as PNG bytes."""
    images = [_png(picture(*size, seed)) for seed, size in enumerate(sample.images)]
    frames = tuple(_png(picture(*FRAME_PX, seed)) for seed in range(sample.frames))
    media = [OfficialMedia(MediaKind.FRAMES, frames)] if frames else []
    media += [OfficialMedia(MediaKind.IMAGE, (image,)) for image in images]
    return OfficialItem(sample.texts, tuple(media), sample.instruction, None, None)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    # Encoding with Pillow would bring a decoder into the process that holds the model.
    height_px, width_px, _ = pixels.shape
    filtered = np.concatenate([np.zeros((height_px, 1), np.uint8), pixels.reshape(height_px, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
