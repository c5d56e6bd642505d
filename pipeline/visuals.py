"""Media bytes into resized pixels, in two steps: draft (sizes, times and token cost), then read.

In: the bytes of one medium and the input config. Out: drafts that know their grid; pixels when asked. Images and
frame lists are decoded while drafting, since only decoding tells their size; a video file only once the whole item is
known to fit. Refused: what the decoders refuse, lists whose frames differ in size (`FRAMES_DIFFER`), files that cannot
be brought under the token budget (`OVER_LENGTH`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline import budget
from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode.image import decode_image, image_size, resize_image
from pipeline.decode.limits import DEFAULT_LIMITS
from pipeline.decode.resize import resize_frame
from pipeline.decode.video import VideoProbe, probe_video, read_frames
from pipeline.errors import RejectCode, RejectError
from pipeline.sampling import FrameSample, list_sample, patch_times, sample_video
from pipeline.types import MediaKind, Visual

__all__ = ["FileDraft", "StillDraft", "draft_file", "draft_frames", "draft_image", "fit_files"]


@dataclass(frozen=True, slots=True)
class StillDraft:
    """An image or a frame list, already resized; `times_s` per temporal patch, None for an image."""

    visual: Visual
    times_s: tuple[float, ...] | None

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Temporal patches, and rows and columns of 16-px patches."""
        return self.visual.grid_thw

    @property
    def cost_tokens(self) -> int:
        """Its share of the prompt: pads, wrappers, timestamps."""
        return budget.visual_tokens(self.grid_thw, self.times_s)

    def read(self) -> Visual:
        """The pixels."""
        return self.visual


@dataclass(frozen=True, slots=True)
class FileDraft:
    """A video file, probed and sampled but not decoded; each frame will be `size_px` (height, width)."""

    data: bytes
    probe: VideoProbe
    sample: FrameSample
    size_px: tuple[int, int]
    fps: float
    limits: DecodeConfig

    @property
    def n_frames(self) -> int:
        """Frames to show, even."""
        return len(self.sample.indices)

    @property
    def times_s(self) -> tuple[float, ...]:
        """Time of each temporal patch."""
        return patch_times(self.sample.timestamps_s)

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Temporal patches, and rows and columns of 16-px patches."""
        return budget.grid_of(self.n_frames, *self.size_px)

    @property
    def cost_tokens(self) -> int:
        """Its share of the prompt: pads, wrappers, timestamps."""
        return budget.visual_tokens(self.grid_thw, self.times_s)

    def read(self) -> Visual:
        """Decode and resize the frames. Raises RejectError (`VIDEO_UNREADABLE`)."""
        frames = read_frames(self.data, self.probe, self.sample.indices, *self.size_px, limits=self.limits)
        return Visual(MediaKind.VIDEO, frames, self.grid_thw)


def draft_image(data: bytes, inputs: InputsConfig, limits: DecodeConfig = DEFAULT_LIMITS) -> StillDraft:
    """Decode an image within `limits` and resize it to the budget of `inputs.image`."""
    sizes = inputs.image
    image = decode_image(data, exif=inputs.exif, limits=limits)
    height_px, width_px = budget.smart_resize(
        *image_size(image),
        factor=budget.FACTOR_PX,
        min_pixels=sizes.min_pixels,
        max_pixels=sizes.max_pixels,
    )
    frames = resize_image(image, height_px, width_px, fast=sizes.resize == "fast")[np.newaxis]
    return StillDraft(Visual(MediaKind.IMAGE, frames, budget.grid_of(1, height_px, width_px)), None)


def draft_frames(blobs: Sequence[bytes], inputs: InputsConfig, limits: DecodeConfig = DEFAULT_LIMITS) -> StillDraft:
    """Decode and resize the sampled frames of a list, one at a time; each is resized twice, as by the reference.

    `inputs.image.resize` holds for the first of the two. Raises `FRAMES_DIFFER` unless that brings all to one size,
    and `TOO_FEW_FRAMES` for an empty list.
    """
    sample = list_sample(len(blobs), inputs.video.max_frames)
    wanted, places = np.unique(sample.indices, return_inverse=True)
    first: tuple[int, int] | None = None
    resized: list[NDArray[np.uint8]] = []
    for index in wanted:
        image = decode_image(blobs[index], exif=inputs.exif, limits=limits)
        size = budget.frame_list_first_size(*image_size(image))
        if first is not None and size != first:
            raise RejectError(
                RejectCode.FRAMES_DIFFER,
                f"frame {index} resizes to {_wxh(size)}, those before to {_wxh(first)}",
            )
        first = size
        second = budget.frame_second_size(*size, len(sample.indices), inputs.video.total_pixels)
        resized.append(resize_frame(resize_image(image, *size, fast=inputs.image.resize == "fast"), *second))
    frames = np.stack([resized[place] for place in places])
    visual = Visual(MediaKind.FRAMES, frames, budget.grid_of(*frames.shape[:3]))
    return StillDraft(visual, patch_times(sample.timestamps_s))


def _wxh(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def draft_file(data: bytes, fps: float, max_frames: int, limits: DecodeConfig = DEFAULT_LIMITS) -> FileDraft:
    """Probe and sample a video file, sized frame by frame as the reference does (128 to 768 tokens each).

    It is turned by its display matrix whatever `inputs.exif` says, because the reference's decoder does that too.
    """
    probe = probe_video(data, limits=limits)
    sample = sample_video(probe.times_s, probe.avg_fps, fps, max_frames)
    size_px = budget.video_file_size(probe.height_px, probe.width_px, len(sample.indices))
    return FileDraft(data, probe, sample, size_px, fps, limits)


def fit_files(drafts: Sequence[FileDraft], room_tokens: int, total_pixels: int) -> tuple[list[FileDraft], bool]:
    """Bring video files that together cost more than `room_tokens` under it; also says whether anything changed.

    First each is resized under `total_pixels`, as frame lists are. If that is not enough, they share the room
    evenly (what a small one leaves goes to the larger), and a file over its share shows fewer frames of that
    same size. Raises `OVER_LENGTH` where two frames are too many.
    """
    if sum(draft.cost_tokens for draft in drafts) <= room_tokens:
        return list(drafts), False
    fitted = [_resized(draft, total_pixels) for draft in drafts]
    if sum(draft.cost_tokens for draft in fitted) <= room_tokens:
        return fitted, True
    left = room_tokens
    by_cost = sorted(range(len(fitted)), key=lambda index: fitted[index].cost_tokens)
    for rank, index in enumerate(by_cost):
        fitted[index] = _with_fewer_frames(fitted[index], left // (len(fitted) - rank))
        left -= fitted[index].cost_tokens
    return fitted, True


def _resized(draft: FileDraft, total_pixels: int) -> FileDraft:
    size_px = budget.frame_second_size(draft.probe.height_px, draft.probe.width_px, draft.n_frames, total_pixels)
    return replace(draft, size_px=size_px)


def _with_fewer_frames(draft: FileDraft, room_tokens: int) -> FileDraft:
    if draft.cost_tokens <= room_tokens:
        return draft
    last_time_s = float(draft.sample.timestamps_s[-1])
    patch_tokens = budget.grid_tokens((1, *draft.grid_thw[1:]))
    n_frames = budget.fit_frames(patch_tokens, last_time_s, draft.n_frames, room_tokens)
    return replace(draft, sample=sample_video(draft.probe.times_s, draft.probe.avg_fps, draft.fps, n_frames))
