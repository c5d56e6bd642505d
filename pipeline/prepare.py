"""One loaded item into everything the encoder needs: token ids, positions, pixels.

In: a `LoadedItem` (texts and media bytes). Out: `Prepared`. Refused, as RejectError: what decoding refuses, and items
that no allowed cut brings under `inputs.max_length`.

Two halves, since they belong in two processes: `job` says what is to be decoded and `finish` makes the prompt of what
was. Neither meets a decoder; between them stands whoever reads the job (`pipeline.decode_pool`, or `prepare` here).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.assembly import CONTENT_HASH_CHARS, NO_MEDIA, assemble, content_hash, media_job, sampling_of
from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode.fast_resize import check_fast_resize
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.template import compose, in_prompt_order, resolve_instruction, user_text
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, MediaKind, Prepared

if TYPE_CHECKING:
    from pipeline.drafting import Drafter

__all__ = ["CONTENT_HASH_CHARS", "Preparer", "content_hash"]


class Preparer:
    """Prepares items under one `inputs` config. Imports neither torch nor, until `prepare` is called, a decoder.

    Raises ConfigError if the config asks for a resizer that is not installed.
    """

    def __init__(self, tokenizer: PromptTokenizer, inputs: InputsConfig, limits: DecodeConfig | None = None) -> None:
        if inputs.image.resize == "fast":
            check_fast_resize()
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._limits = limits
        self._drafter: Drafter | None = None

    def prepare(self, item: LoadedItem) -> Prepared:
        """`item`, ready for the encoder, decoded in this process: for items that are trusted not to kill it.

        Raises RejectError; every other exception is a bug.
        """
        job = self.job(item)
        if job is None:
            return self.finish(item, NO_MEDIA)
        if self._drafter is None:
            # Decoders are for processes that decode, and most that prepare leave it to a child.
            from pipeline.drafting import Drafter

            self._drafter = Drafter(self._inputs, self._limits)
        return self.finish(item, self._drafter.read(job))

    def job(self, item: LoadedItem) -> MediaJob | None:
        """What of `item` has to be decoded; None for an item of text alone."""
        if not item.media:
            return None
        inputs = self._inputs
        media = in_prompt_order(item.media)
        room_tokens = None
        if inputs.over_length == "truncate" and any(medium.kind is MediaKind.VIDEO for medium in media):
            instruction = resolve_instruction(item.instruction, inputs.instruction)
            room_tokens = inputs.max_length - self._tokenizer.count(
                compose(instruction, (), ""), max_length=inputs.max_length
            )
        return media_job(item, media, inputs, limit_tokens=inputs.max_length, room_tokens=room_tokens)

    def finish(self, item: LoadedItem, read: ReadMedia) -> Prepared:
        """`item` with its media as they were read. Raises RejectError."""
        inputs = self._inputs
        media = in_prompt_order(item.media)
        instruction = resolve_instruction(item.instruction, inputs.instruction)
        text = user_text(item.texts, has_media=bool(media))
        encoded = self._tokenizer.encode(
            compose(instruction, [medium.slot for medium in read.media], text),
            max_length=inputs.max_length,
            over_length=inputs.over_length,
            control_tokens=inputs.control_tokens,
        )
        return assemble(
            item,
            read,
            encoded.input_ids,
            truncated=encoded.truncated or read.shrunk,
            content_hash=content_hash(text, instruction, media, sampling_of(item, inputs)),
        )
