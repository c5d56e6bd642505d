"""An item's media drafted, fitted to the room they have, and read, whichever model the prompt is for.

In: a `MediaJob`, the input config and the decoding limits. Out: `ReadMedia`. Refused, as RejectError: what decoding
refuses, and stills that alone pass the limit (`OVER_LENGTH`). This is the half of preparation that meets native
decoders; a job runs it in a process that may die of them (`pipeline.decode_child`).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode.fast_resize import check_fast_resize
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob, ReadMedia, ReadMedium
from pipeline.types import LoadedMedia, MediaKind
from pipeline.visuals import FileDraft, StillDraft, draft_file, draft_frames, draft_image, fit_files

__all__ = ["Draft", "Drafter"]

Draft = StillDraft | FileDraft


class Drafter:
    """Reads media under one config. Raises ConfigError if it asks for a resizer that is not installed."""

    def __init__(self, inputs: InputsConfig, limits: DecodeConfig | None = None) -> None:
        if inputs.image.resize == "fast":
            check_fast_resize()
        self._inputs = inputs
        self._limits = limits or DecodeConfig()

    def read(self, job: MediaJob) -> ReadMedia:
        """The pixels of `job`'s media. Raises RejectError.

        Everything is drafted before a video file is decoded, so that an item too long costs no decoding of one.
        """
        drafts = self._drafts(job)
        shrunk = False
        if job.room_tokens is not None:
            drafts, shrunk = self._fitted(drafts, job.room_tokens)
        return ReadMedia(tuple(ReadMedium(draft.read(), draft.times_s) for draft in drafts), shrunk)

    def _drafts(self, job: MediaJob) -> Sequence[Draft]:
        drafts: list[Draft] = []
        still_tokens = 0
        for medium in job.media:
            draft = self._draft(job, medium)
            drafts.append(draft)
            still_tokens += draft.cost_tokens if isinstance(draft, StillDraft) else 0
            # Images and frame lists cannot shrink any more: stop before decoding the hundreds that may follow.
            if job.limit_tokens is not None and still_tokens > job.limit_tokens:
                raise RejectError(
                    RejectCode.OVER_LENGTH,
                    f"the first {len(drafts)} of {len(job.media)} media need {still_tokens} tokens of"
                    f" {job.limit_tokens}",
                )
        return drafts

    def _fitted(self, drafts: Sequence[Draft], room_tokens: int) -> tuple[Sequence[Draft], bool]:
        """`drafts`, their video files shrunk until all fit `room_tokens`, and whether any had to."""
        files = [draft for draft in drafts if isinstance(draft, FileDraft)]
        if not files:
            return drafts, False
        still = sum(draft.cost_tokens for draft in drafts if isinstance(draft, StillDraft))
        fitted, shrunk = fit_files(files, room_tokens - still, self._inputs.video.total_pixels)
        rest = iter(fitted)
        return [next(rest) if isinstance(draft, FileDraft) else draft for draft in drafts], shrunk

    def _draft(self, job: MediaJob, medium: LoadedMedia) -> Draft:
        inputs, limits = self._inputs, self._limits
        if medium.kind is MediaKind.IMAGE:
            return draft_image(medium.blobs[0], inputs, limits)
        if medium.kind is MediaKind.FRAMES:
            # A row's fps and max_frames are for files; the reference ignores them for frame lists.
            return draft_frames(medium.blobs, inputs, limits)
        return draft_file(medium.blobs[0], job.fps, job.max_frames, limits)
