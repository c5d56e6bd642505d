"""Decoded media and token ids put together, whichever model the prompt is for.

In: a `LoadedItem`, its media as they were read, the ids of its prompt. Out: a `Prepared`. Refused: nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.budget import grid_tokens
from pipeline.config import InputsConfig
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.positions import mrope_positions
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Modality, Prepared

__all__ = ["CONTENT_HASH_CHARS", "NO_MEDIA", "assemble", "content_hash", "media_job", "modality_of", "sampling_of"]

CONTENT_HASH_CHARS = 32
"""128 bits of the SHA-256 in hex: two of 2^48 items share them with a chance below 2^-32."""

NO_MEDIA = ReadMedia((), shrunk=False)
"""What an item of text alone was read as."""


def sampling_of(item: LoadedItem, inputs: InputsConfig) -> tuple[float, int]:
    """Frames per second and most frames of the item's video files: its own, else the config's."""
    return (
        inputs.video.fps if item.fps is None else item.fps,
        inputs.video.max_frames if item.max_frames is None else item.max_frames,
    )


def media_job(
    item: LoadedItem,
    media: Sequence[LoadedMedia],
    inputs: InputsConfig,
    *,
    limit_tokens: int | None,
    room_tokens: int | None,
) -> MediaJob:
    """How `media` (the item's, in prompt order, at least one) are to be read."""
    fps, max_frames = sampling_of(item, inputs)
    return MediaJob(tuple(media), fps, max_frames, limit_tokens, room_tokens)


def assemble(
    item: LoadedItem, read: ReadMedia, input_ids: NDArray[np.int32], *, truncated: bool, content_hash: str
) -> Prepared:
    """The pixels of `read` beside `input_ids` int32[n], with positions and counts."""
    visuals = tuple(medium.visual for medium in read.media)
    grids = [visual.grid_thw for visual in visuals]
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
