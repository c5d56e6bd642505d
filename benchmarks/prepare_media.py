"""What the preparation benchmarks read: files of each kind in one folder, made on the spot, the same every time.

In: a folder. Out: a `Cell` a row of the table, each some items of one kind. Nothing is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.fixtures.media import Picture, encode_image, encode_video, photo, screenshot

__all__ = ["CLIP", "Cell", "Item", "make_cells"]

CLIP = "video 60 s 1080p30"

PAN_PX = 2
CLIP_FRAMES, CLIP_FPS = 1800, 30
LIST_FRAMES = 64

_TEXT = (
    "the river runs past an old mill where people used to bring grain and talk about weather prices children roads "
    "and what had been said in town last week before rain came down over hills bridges fields houses"
)
WORDS_IN_80_TOKENS = 63
"""A prompt has 16 tokens of its own, and each of these words is one token."""

WORDS_IN_500_TOKENS = 483


@dataclass(frozen=True, slots=True)
class Item:
    """`text`, or the paths of media: one image, one video file or the pictures of a frame list (`kind` says which)."""

    kind: str
    text: str = ""
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A row of the table."""

    name: str
    items: tuple[Item, ...]


class _Pan(Sequence[Picture]):
    """A window that pans over one large picture, a frame at a time: 1,800 of them would be 11 GB."""

    def __init__(self) -> None:
        self._scene = photo(1920 + PAN_PX * CLIP_FRAMES // 10, 1080, 11)

    def __len__(self) -> int:
        return CLIP_FRAMES

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        if index >= CLIP_FRAMES:
            raise IndexError(index)
        left = PAN_PX * (index % (CLIP_FRAMES // 10))
        return np.ascontiguousarray(self._scene[:, left : left + 1920])


def make_cells(folder: Path, *, video: bool) -> list[Cell]:
    """Write the media into `folder`; the clip, which takes most of the time, only if `video`."""
    cells = [
        Cell("texts of 80 tokens", _texts(256, WORDS_IN_80_TOKENS)),
        Cell("texts of 500 tokens", _texts(64, WORDS_IN_500_TOKENS)),
        _images(folder, "JPEG 640×480", [photo(640, 480, seed) for seed in range(16)], "JPEG"),
        _images(folder, "JPEG 1280×960", [photo(1280, 960, seed) for seed in range(6)], "JPEG"),
        _images(folder, "JPEG 1920×1080", [photo(1920, 1080, seed) for seed in range(4)], "JPEG"),
        _images(folder, "JPEG 4000×3000", [photo(4000, 3000, seed) for seed in range(1)], "JPEG"),
        _images(folder, "PNG 1280×800", [screenshot(1280, 800, f"page {n}") for n in range(4)], "PNG"),
        Cell("64 frames 1280×720", (_frame_list(folder),)),
    ]
    if video:
        data = encode_video(
            _Pan(), fps=CLIP_FPS, bframes=2, gop=250, matrix="bt709", options={"crf": "26", "threads": "2"}
        )
        cells.append(Cell(CLIP, (Item("video", paths=(_write(folder, "clip.mp4", data),)),)))
    return cells


def _texts(count: int, words: int) -> tuple[Item, ...]:
    rng = np.random.default_rng(words)
    return tuple(Item("text", " ".join(rng.choice(_TEXT.split(), words))) for _ in range(count))


def _images(folder: Path, name: str, pictures: Sequence[Picture], image_format: str) -> Cell:
    options = {"quality": 90} if image_format == "JPEG" else {}
    blobs = [encode_image(picture, image_format, **options) for picture in pictures]
    stem = name.replace(" ", "-")
    return Cell(
        name, tuple(Item("image", paths=(_write(folder, f"{stem}-{n}", blob),)) for n, blob in enumerate(blobs))
    )


def _frame_list(folder: Path) -> Item:
    blobs = [encode_image(photo(1280, 720, seed), "JPEG", quality=90) for seed in range(8)]
    paths = [_write(folder, f"frame-{n}.jpg", blob) for n, blob in enumerate(blobs)]
    return Item("frames", paths=tuple(paths[n % len(paths)] for n in range(LIST_FRAMES)))


def _write(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.write_bytes(data)
    return str(path)
