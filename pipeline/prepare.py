"""One loaded item into everything the encoder needs: token ids, positions, pixels.

In: a `LoadedItem` (texts and media bytes). Out: `Prepared`. Refused, as RejectError: what decoding refuses, and items
that no allowed cut brings under `inputs.max_length`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pipeline.budget import grid_tokens
from pipeline.config import InputsConfig
from pipeline.decode.fast_resize import check_fast_resize
from pipeline.errors import RejectCode, RejectError
from pipeline.positions import mrope_positions
from pipeline.template import compose, in_prompt_order, resolve_instruction, user_text
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Modality, Prepared
from pipeline.visuals import FileDraft, StillDraft, draft_file, draft_frames, draft_image, fit_files

__all__ = ["CONTENT_HASH_CHARS", "Preparer", "content_hash", "modality_of"]

CONTENT_HASH_CHARS = 32
"""128 bits of the SHA-256 in hex: two of 2^48 items share them with a chance below 2^-32."""


class Preparer:
    """Prepares items under one `inputs` config. Imports neither torch nor a decoder of its own.

    Raises ConfigError if the config asks for a resizer that is not installed.
    """

    def __init__(self, tokenizer: PromptTokenizer, inputs: InputsConfig) -> None:
        if inputs.image.resize == "fast":
            check_fast_resize()
        self._tokenizer = tokenizer
        self._inputs = inputs

    def prepare(self, item: LoadedItem) -> Prepared:
        """`item`, ready for the encoder. Raises RejectError; every other exception is a bug.

        The prompt is tokenised before video files are decoded, so that one too long costs no decoding.
        """
        inputs = self._inputs
        media = in_prompt_order(item.media)
        instruction = resolve_instruction(item.instruction, inputs.instruction)
        text = user_text(item.texts, has_media=bool(media))
        drafts = self._drafts(item, media)
        shrunk = False
        if inputs.over_length == "truncate":
            drafts, shrunk = self._fitted(drafts, instruction)
        encoded = self._tokenizer.encode(
            compose(instruction, [draft.slot for draft in drafts], text),
            max_length=inputs.max_length,
            over_length=inputs.over_length,
            control_tokens=inputs.control_tokens,
        )
        grids = [draft.grid_thw for draft in drafts]
        visuals = tuple(draft.read() for draft in drafts)
        return Prepared(
            id=item.id,
            input_ids=encoded.input_ids,
            position_ids=mrope_positions(encoded.input_ids, grids),
            visuals=visuals,
            modality=modality_of(item.texts, media),
            n_visual_tokens=sum(map(grid_tokens, grids)),
            n_frames=sum(len(visual.frames) for visual in visuals if visual.kind is not MediaKind.IMAGE),
            truncated=encoded.truncated or shrunk,
            content_hash=content_hash(text, instruction, media, self._sampling(item)),
        )

    def _sampling(self, item: LoadedItem) -> tuple[float, int]:
        video = self._inputs.video
        return (
            video.fps if item.fps is None else item.fps,
            video.max_frames if item.max_frames is None else item.max_frames,
        )

    def _drafts(self, item: LoadedItem, media: Sequence[LoadedMedia]) -> list[StillDraft | FileDraft]:
        drafts: list[StillDraft | FileDraft] = []
        still_tokens = 0
        for medium in media:
            draft = self._draft(item, medium)
            drafts.append(draft)
            still_tokens += draft.cost_tokens if isinstance(draft, StillDraft) else 0
            # Images and frame lists cannot shrink any more: stop before decoding the hundreds that may follow.
            if still_tokens > self._inputs.max_length:
                raise RejectError(
                    RejectCode.OVER_LENGTH,
                    f"the first {len(drafts)} of {len(media)} media need {still_tokens} tokens of"
                    f" {self._inputs.max_length}",
                )
        return drafts

    def _draft(self, item: LoadedItem, medium: LoadedMedia) -> StillDraft | FileDraft:
        inputs = self._inputs
        if medium.kind is MediaKind.IMAGE:
            return draft_image(medium.blobs[0], inputs)
        if medium.kind is MediaKind.FRAMES:
            # A row's fps and max_frames are for files; the reference ignores them for frame lists.
            return draft_frames(medium.blobs, inputs)
        fps, max_frames = self._sampling(item)
        return draft_file(medium.blobs[0], fps, max_frames)

    def _fitted(
        self, drafts: list[StillDraft | FileDraft], instruction: str
    ) -> tuple[list[StillDraft | FileDraft], bool]:
        files = [draft for draft in drafts if isinstance(draft, FileDraft)]
        if not files:
            return drafts, False
        frame = self._tokenizer.count(compose(instruction, (), ""))
        still = sum(draft.cost_tokens for draft in drafts if isinstance(draft, StillDraft))
        room_tokens = self._inputs.max_length - frame - still
        fitted, shrunk = fit_files(files, room_tokens, self._inputs.video.total_pixels)
        rest = iter(fitted)
        return [next(rest) if isinstance(draft, FileDraft) else draft for draft in drafts], shrunk


def modality_of(texts: Sequence[str], media: Iterable[LoadedMedia]) -> Modality:
    """What an item holds; an empty text counts as none, and an item with nothing (`NULL`) is text."""
    kinds = {Modality.IMAGE if medium.kind is MediaKind.IMAGE else Modality.VIDEO for medium in media}
    if any(texts) or not kinds:
        kinds.add(Modality.TEXT)
    return kinds.pop() if len(kinds) == 1 else Modality.MIXED


def content_hash(text: str, instruction: str, media: Sequence[LoadedMedia], sampling: tuple[float, int]) -> str:
    """Hex of 128 bits of SHA-256 over what decides an item's vector under one config.

    `text` is the user's whole text, `instruction` the resolved one, `media` in prompt order; `sampling` (fps,
    max_frames) counts only where there is a video file. Every part is preceded by its length.
    """
    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)

    add(text.encode("utf-8", "replace"))
    add(instruction.encode("utf-8", "replace"))
    for medium in media:
        add(medium.kind.encode())
        add(repr(sampling if medium.kind is MediaKind.VIDEO else len(medium.blobs)).encode())
        for blob in medium.blobs:
            add(blob)
    return digest.hexdigest()[:CONTENT_HASH_CHARS]
