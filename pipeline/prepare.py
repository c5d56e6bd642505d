"""One loaded item into everything the encoder needs: token ids, positions, pixels.

In: a `LoadedItem` (texts and media bytes). Out: `Prepared`. Refused, as RejectError: what decoding refuses, and items
that no allowed cut brings under `inputs.max_length`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.config import InputsConfig
from pipeline.drafting import Drafter, assemble
from pipeline.template import compose, in_prompt_order, resolve_instruction, user_text
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Prepared

__all__ = ["CONTENT_HASH_CHARS", "Preparer", "content_hash"]

CONTENT_HASH_CHARS = 32
"""128 bits of the SHA-256 in hex: two of 2^48 items share them with a chance below 2^-32."""


class Preparer:
    """Prepares items under one `inputs` config. Imports neither torch nor a decoder of its own.

    Raises ConfigError if the config asks for a resizer that is not installed.
    """

    def __init__(self, tokenizer: PromptTokenizer, inputs: InputsConfig) -> None:
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._drafter = Drafter(inputs)

    def prepare(self, item: LoadedItem) -> Prepared:
        """`item`, ready for the encoder. Raises RejectError; every other exception is a bug.

        The prompt is tokenised before video files are decoded, so that one too long costs no decoding.
        """
        inputs = self._inputs
        media = in_prompt_order(item.media)
        instruction = resolve_instruction(item.instruction, inputs.instruction)
        text = user_text(item.texts, has_media=bool(media))
        drafts = self._drafter.drafts(item, media, inputs.max_length)
        shrunk = False
        if inputs.over_length == "truncate" and any(medium.kind is MediaKind.VIDEO for medium in media):
            frame_tokens = self._tokenizer.count(compose(instruction, (), ""), max_length=inputs.max_length)
            drafts, shrunk = self._drafter.fitted(drafts, inputs.max_length - frame_tokens)
        encoded = self._tokenizer.encode(
            compose(instruction, [draft.slot for draft in drafts], text),
            max_length=inputs.max_length,
            over_length=inputs.over_length,
            control_tokens=inputs.control_tokens,
        )
        return assemble(
            item,
            drafts,
            encoded.input_ids,
            truncated=encoded.truncated or shrunk,
            content_hash=content_hash(text, instruction, media, self._drafter.sampling(item)),
        )


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
