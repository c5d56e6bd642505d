"""The values that cross seams. Frozen, without behaviour beyond derived properties, without I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectCode

__all__ = [
    "LoadedItem",
    "LoadedMedia",
    "Media",
    "MediaKind",
    "MediaRef",
    "Modality",
    "Prepared",
    "Reject",
    "Visual",
    "WorkItem",
]


class MediaKind(StrEnum):
    """What a medium is, by the manifest column it came from; in layouts without such columns, by its bytes."""

    IMAGE = "image"
    VIDEO = "video"  # an encoded file
    FRAMES = "frames"  # one video given as a list of images
    FILE = "file"  # an image or a video, as its bytes will say; no `LoadedMedia` is one


class Modality(StrEnum):
    """What an item holds: the `modality` column of the vectors table."""

    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class MediaRef:
    """Where one file's bytes are: at `uri`, or inline in the manifest when `uri` is None.

    Inline bytes are cell `column` of the item's manifest row, element `index` if that cell is a list. An empty `uri`
    is a place without a medium: null in a list, or an empty URI. The item is a reject, and no file is looked for.
    `expected` is what planning knew of the file, as (name, text), and what the fetch compares (`pipeline.expected`).
    """

    uri: str | None
    column: str
    index: int
    expected: tuple[tuple[str, str], ...] = ()

    @property
    def is_vacant(self) -> bool:
        """Whether the manifest names no file here."""
        return self.uri == ""


@dataclass(frozen=True, slots=True)
class Media:
    """One medium of an item: an image, a video or a file that is either (one ref), or a frame list (a ref a frame)."""

    kind: MediaKind
    refs: tuple[MediaRef, ...]


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One row of the work list: an item to embed, with its media still out in the lake.

    `media` stands in prompt order (videos, frame lists, images); `manifest_row` counts from 0 in
    `manifest_file` and finds the inline bytes again. `instruction`, `fps` and `max_frames` are the row's own
    values, None where the config's hold. `attempts` counts the earlier runs that rejected the item.
    """

    id: str
    texts: tuple[str, ...]
    media: tuple[Media, ...]
    instruction: str | None
    fps: float | None
    max_frames: int | None
    fingerprint: str
    manifest_file: str
    manifest_row: int
    attempts: int


@dataclass(frozen=True, slots=True)
class LoadedMedia:
    """A medium with its bytes: one blob, or for a frame list one a frame."""

    kind: MediaKind
    blobs: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """An item with everything preparation needs, wherever it came from (a work list or `Embedder.embed`)."""

    id: str
    texts: tuple[str, ...]
    media: tuple[LoadedMedia, ...]
    instruction: str | None = None
    fps: float | None = None
    max_frames: int | None = None


@dataclass(frozen=True, slots=True)
class Visual:
    """One image or video, resized and ready for the vision tower.

    `frames`: uint8[t, height_px, width_px, 3]; t is 1 for an image (the device repeats it) and even for a
    video. `grid_thw`: temporal patches, and rows and columns of 16-px patches.
    """

    kind: MediaKind
    frames: NDArray[np.uint8]
    grid_thw: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item ready for the encoder: exact token ids, positions and pixels, nothing left to decide.

    `input_ids`: int32[n]; `position_ids`: int32[3, n] (M-RoPE: temporal, height, width); `visuals` in prompt
    order. `n_frames` counts video frames after sampling and padding to even.
    """

    id: str
    input_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    visuals: tuple[Visual, ...]
    modality: Modality
    n_visual_tokens: int
    n_frames: int
    truncated: bool
    content_hash: str

    @property
    def n_tokens(self) -> int:
        """Length of the prompt in tokens, visual tokens included."""
        return int(self.input_ids.shape[0])


@dataclass(frozen=True, slots=True)
class Reject:
    """An item that got no vector, and why. `detail` is at most 300 characters, without secret or address."""

    id: str
    code: RejectCode
    detail: str
