"""An item's media drafted for a prompt, whichever model the prompt is for.

In: a `LoadedItem` and the input config. Out: drafts in prompt order, fitted to a room in tokens, and in the end a
`Prepared`. Refused, as RejectError: what decoding refuses, and stills that alone pass the limit (`OVER_LENGTH`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.budget import grid_tokens
from pipeline.config import InputsConfig
from pipeline.decode.fast_resize import check_fast_resize
from pipeline.errors import RejectCode, RejectError
from pipeline.positions import mrope_positions
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Modality, Prepared
from pipeline.visuals import FileDraft, StillDraft, draft_file, draft_frames, draft_image, fit_files

__all__ = ["Draft", "Drafter", "assemble", "modality_of"]

Draft = StillDraft | FileDraft


class Drafter:
    """Drafts media under one `inputs` config. Raises ConfigError if it asks for a resizer that is not installed."""

    def __init__(self, inputs: InputsConfig) -> None:
        if inputs.image.resize == "fast":
            check_fast_resize()
        self._inputs = inputs

    def sampling(self, item: LoadedItem) -> tuple[float, int]:
        """Frames per second and most frames of the item's video files: its own, else the config's."""
        video = self._inputs.video
        return (
            video.fps if item.fps is None else item.fps,
            video.max_frames if item.max_frames is None else item.max_frames,
        )

    def drafts(self, item: LoadedItem, media: Sequence[LoadedMedia], limit_tokens: int | None) -> list[Draft]:
        """A draft for each of `media` (in prompt order). Raises RejectError, `OVER_LENGTH` beyond the limit."""
        drafts: list[Draft] = []
        still_tokens = 0
        for medium in media:
            draft = self._draft(item, medium)
            drafts.append(draft)
            still_tokens += draft.cost_tokens if isinstance(draft, StillDraft) else 0
            # Images and frame lists cannot shrink any more: stop before decoding the hundreds that may follow.
            if limit_tokens is not None and still_tokens > limit_tokens:
                raise RejectError(
                    RejectCode.OVER_LENGTH,
                    f"the first {len(drafts)} of {len(media)} media need {still_tokens} tokens of {limit_tokens}",
                )
        return drafts

    def fitted(self, drafts: list[Draft], room_tokens: int) -> tuple[list[Draft], bool]:
        """`drafts`, their video files shrunk until all fit `room_tokens`, and whether any had to."""
        files = [draft for draft in drafts if isinstance(draft, FileDraft)]
        if not files:
            return drafts, False
        still = sum(draft.cost_tokens for draft in drafts if isinstance(draft, StillDraft))
        fitted, shrunk = fit_files(files, room_tokens - still, self._inputs.video.total_pixels)
        rest = iter(fitted)
        return [next(rest) if isinstance(draft, FileDraft) else draft for draft in drafts], shrunk

    def _draft(self, item: LoadedItem, medium: LoadedMedia) -> Draft:
        inputs = self._inputs
        if medium.kind is MediaKind.IMAGE:
            return draft_image(medium.blobs[0], inputs)
        if medium.kind is MediaKind.FRAMES:
            # A row's fps and max_frames are for files; the reference ignores them for frame lists.
            return draft_frames(medium.blobs, inputs)
        fps, max_frames = self.sampling(item)
        return draft_file(medium.blobs[0], fps, max_frames)


def assemble(
    item: LoadedItem, drafts: Sequence[Draft], input_ids: NDArray[np.int32], *, truncated: bool, content_hash: str
) -> Prepared:
    """Read the pixels of `drafts` and put them beside `input_ids` int32[n]. Raises RejectError."""
    grids = [draft.grid_thw for draft in drafts]
    visuals = tuple(draft.read() for draft in drafts)
    return Prepared(
        id=item.id,
        input_ids=input_ids,
        position_ids=mrope_positions(input_ids, grids),
        visuals=visuals,
        modality=modality_of(item.texts, item.media),
        n_visual_tokens=sum(map(grid_tokens, grids)),
        n_frames=sum(len(visual.frames) for visual in visuals if visual.kind is not MediaKind.IMAGE),
        truncated=truncated,
        content_hash=content_hash,
    )


def modality_of(texts: Sequence[str], media: Iterable[LoadedMedia]) -> Modality:
    """What an item holds; an empty text counts as none, and an item with nothing (`NULL`) is text."""
    kinds = {Modality.IMAGE if medium.kind is MediaKind.IMAGE else Modality.VIDEO for medium in media}
    if any(texts) or not kinds:
        kinds.add(Modality.TEXT)
    return kinds.pop() if len(kinds) == 1 else Modality.MIXED
