"""What passes between whoever prepares an item and whoever decodes its media, which are two processes in a job.

In: a `MediaJob`: media bytes and what bounds their cost. Out: `ReadMedia`: pixels, and what the prompt says of them.
Plain values: neither a decoder nor a tokenizer is imported with them. Refused: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.budget import grid_tokens
from pipeline.template import VisualSlot
from pipeline.types import LoadedMedia, Visual

__all__ = ["MediaJob", "ReadMedia", "ReadMedium"]


@dataclass(frozen=True, slots=True)
class MediaJob:
    """The media of one item in prompt order, at least one.

    `fps`, `max_frames`: how its video files are sampled. `limit_tokens`: what images and frame lists may cost together
    (None: anything). `room_tokens`: what all media may cost, by shrinking video files (None: they stay as sampled).
    """

    media: tuple[LoadedMedia, ...]
    fps: float
    max_frames: int
    limit_tokens: int | None
    room_tokens: int | None

    @property
    def n_bytes(self) -> int:
        """Bytes of all media."""
        return sum(len(blob) for medium in self.media for blob in medium.blobs)


@dataclass(frozen=True, slots=True)
class ReadMedium:
    """One medium's pixels; `times_s` per temporal patch, None for an image."""

    visual: Visual
    times_s: tuple[float, ...] | None

    @property
    def slot(self) -> VisualSlot:
        """What the prompt says of it."""
        return VisualSlot(grid_tokens((1, *self.visual.grid_thw[1:])), self.times_s)


@dataclass(frozen=True, slots=True)
class ReadMedia:
    """All media of a job, in its order; `shrunk`: whether a video file was made smaller to fit the room."""

    media: tuple[ReadMedium, ...]
    shrunk: bool
