"""Queries and documents into the two halves of the reranker's prompts, each prepared once for all its pairs.

In: `LoadedItem`s. Out: a `RerankHalf` for each, and pairs of them. Refused, as RejectError: what decoding refuses,
sides that fit no pair (`OVER_LENGTH`), and pairs that no allowed cut brings under `inputs.max_length`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pipeline.assembly import NO_MEDIA, assemble, content_hash, media_job, sampling_of
from pipeline.config import DecodeConfig
from pipeline.cuttable import CuttableIds
from pipeline.decode.fast_resize import check_fast_resize
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import PreparedPair, RerankHalf, pair_halves
from pipeline.rerank.template import compose_document, compose_query, resolve_rerank_instruction
from pipeline.template import Prompt, VisualSlot, in_prompt_order, user_text
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, MediaKind

if TYPE_CHECKING:
    from pipeline.drafting import Drafter

__all__ = ["HalfMaker", "RerankPreparer"]

_Compose = Callable[[Sequence[VisualSlot], str], Prompt]

_RESERVED_FRACTION = 16
"""A sixteenth of `max_length` (640 tokens by default) is kept for both texts when a side's video files are fitted."""


class HalfMaker:
    """Makes the halves of one side in two steps, `job` and `finish`, as `pipeline.prepare.Preparer` does items."""

    def __init__(self, preparer: RerankPreparer, *, is_query: bool) -> None:
        self._preparer = preparer
        self._is_query = is_query

    def job(self, item: LoadedItem) -> MediaJob | None:
        """What of `item` has to be decoded; None for a side of text alone."""
        return self._preparer.job(item, self._instruction(item))

    def finish(self, item: LoadedItem, read: ReadMedia) -> RerankHalf:
        """The half of `item` with its media as they were read. Raises RejectError."""
        instruction = self._instruction(item)
        compose = partial(compose_query, instruction) if self._is_query else compose_document
        return self._preparer.finish(item, read, compose, instruction)

    def _instruction(self, item: LoadedItem) -> str:
        # A document's own instruction says nothing.
        return self._preparer.instruction_of(item) if self._is_query else ""


class RerankPreparer:
    """Prepares halves and pairs under one `inputs` config. Imports no torch, and decoders only to decode by itself.

    `tokenizer` is one of a reranker (`PromptTokenizer(folder, "reranker")`). Raises ConfigError if the config asks for
    a resizer that is not installed.
    """

    def __init__(self, tokenizer: PromptTokenizer, inputs: RerankInputs, limits: DecodeConfig | None = None) -> None:
        if inputs.image.resize == "fast":
            check_fast_resize()
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._limits = limits
        self._drafter: Drafter | None = None
        self.makers = {"query": HalfMaker(self, is_query=True), "document": HalfMaker(self, is_query=False)}
        """The two sides' makers, for whoever has media decoded elsewhere."""

    def query(self, item: LoadedItem) -> RerankHalf:
        """The first half of all pairs of a query, its instruction included, decoded here. Raises RejectError."""
        return self._here("query", item)

    def document(self, item: LoadedItem) -> RerankHalf:
        """The second half of all pairs of a document, decoded here. Raises RejectError."""
        return self._here("document", item)

    def pair(self, query: RerankHalf, document: RerankHalf) -> PreparedPair:
        """Both halves as one prompt. Raises RejectError (`OVER_LENGTH`)."""
        inputs = self._inputs
        return pair_halves(query, document, max_length=inputs.max_length, over_length=inputs.over_length)

    def instruction_of(self, item: LoadedItem) -> str:
        """The resolved instruction of a query."""
        return resolve_rerank_instruction(item.instruction, self._inputs.instruction)

    def _here(self, side: str, item: LoadedItem) -> RerankHalf:
        maker = self.makers[side]
        job = maker.job(item)
        if job is None:
            return maker.finish(item, NO_MEDIA)
        if self._drafter is None:
            # Decoders are for processes that decode, and most that prepare leave it to a child.
            from pipeline.drafting import Drafter

            self._drafter = Drafter(self._inputs, self._limits)
        return maker.finish(item, self._drafter.read(job))

    def job(self, item: LoadedItem, instruction: str) -> MediaJob | None:
        """What of a side has to be decoded; see `HalfMaker`."""
        if not item.media:
            return None
        inputs = self._inputs
        media = in_prompt_order(item.media)
        has_file = any(medium.kind is MediaKind.VIDEO for medium in media)
        return media_job(
            item,
            media,
            inputs,
            # The official cut keeps any number of visual tokens.
            limit_tokens=None if inputs.over_length == "reference" else inputs.max_length,
            room_tokens=self._room_tokens(instruction) if inputs.over_length == "truncate" and has_file else None,
        )

    def finish(self, item: LoadedItem, read: ReadMedia, compose: _Compose, instruction: str) -> RerankHalf:
        """A side with its media as they were read; see `HalfMaker`. Raises RejectError."""
        media = in_prompt_order(item.media)
        text = user_text(item.texts, has_media=bool(media))
        ids = self._ids(compose([medium.slot for medium in read.media], text))
        self._refuse_misfit(ids)
        hashed = content_hash(text, instruction, media, sampling_of(item, self._inputs))
        return RerankHalf(assemble(item, read, ids.whole, truncated=read.shrunk, content_hash=hashed), ids)

    def _ids(self, prompt: Prompt) -> CuttableIds:
        inputs = self._inputs
        # Control tokens anywhere in a text count in the official cut: only the whole text tells them all.
        counts_all = inputs.over_length == inputs.control_tokens == "reference"
        max_length = None if counts_all else inputs.max_length
        return self._tokenizer.cuttable(prompt, max_length=max_length, control_tokens=inputs.control_tokens)

    def _room_tokens(self, instruction: str) -> int:
        """Tokens that a side's media may take. Decided by the side alone, so that no pair's company changes a score."""
        inputs = self._inputs
        if inputs.side_tokens is not None:
            return inputs.side_tokens
        words = instruction or resolve_rerank_instruction(None, inputs.instruction)
        halves = (compose_query(words, (), ""), compose_document((), ""))
        frame_tokens = sum(self._tokenizer.count(half, max_length=inputs.max_length) for half in halves)
        return inputs.max_length - frame_tokens - inputs.max_length // _RESERVED_FRACTION

    def _refuse_misfit(self, ids: CuttableIds) -> None:
        inputs = self._inputs
        least = {
            "truncate": ids.fixed_tokens + bool(ids.text_tokens),
            "reject": ids.n_tokens,
            "reference": 0,
        }[inputs.over_length]
        if least > inputs.max_length:
            raise RejectError(
                RejectCode.OVER_LENGTH, f"this side alone takes {least} tokens of {inputs.max_length} in any pair"
            )
