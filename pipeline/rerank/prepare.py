"""Queries and documents into the two halves of the reranker's prompts, each prepared once for all its pairs.

In: `LoadedItem`s. Out: a `RerankHalf` for each, and pairs of them. Refused, as RejectError: what decoding refuses,
sides that fit no pair (`OVER_LENGTH`), and pairs that no allowed cut brings under `inputs.max_length`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from pipeline.cuttable import CuttableIds
from pipeline.drafting import Drafter, assemble
from pipeline.errors import RejectCode, RejectError
from pipeline.prepare import content_hash
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import PreparedPair, RerankHalf, pair_halves
from pipeline.rerank.template import compose_document, compose_query, resolve_rerank_instruction
from pipeline.template import Prompt, VisualSlot, in_prompt_order, user_text
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, MediaKind

__all__ = ["RerankPreparer"]

_Compose = Callable[[Sequence[VisualSlot], str], Prompt]

_RESERVED_FRACTION = 16
"""A sixteenth of `max_length` (640 tokens by default) is kept for both texts when a side's video files are fitted."""


class RerankPreparer:
    """Prepares halves and pairs under one `inputs` config. Imports neither torch nor a decoder of its own.

    `tokenizer` is one of a reranker (`PromptTokenizer(folder, "reranker")`). Raises ConfigError if the config asks for
    a resizer that is not installed.
    """

    def __init__(self, tokenizer: PromptTokenizer, inputs: RerankInputs) -> None:
        self._tokenizer = tokenizer
        self._inputs = inputs
        self._drafter = Drafter(inputs)

    def query(self, item: LoadedItem) -> RerankHalf:
        """The first half of all pairs of a query, its instruction included. Raises RejectError."""
        instruction = resolve_rerank_instruction(item.instruction, self._inputs.instruction)
        return self._half(item, partial(compose_query, instruction), instruction)

    def document(self, item: LoadedItem) -> RerankHalf:
        """The second half of all pairs of a document, whose own instruction says nothing. Raises RejectError."""
        return self._half(item, compose_document, "")

    def pair(self, query: RerankHalf, document: RerankHalf) -> PreparedPair:
        """Both halves as one prompt. Raises RejectError (`OVER_LENGTH`)."""
        inputs = self._inputs
        return pair_halves(query, document, max_length=inputs.max_length, over_length=inputs.over_length)

    def _half(self, item: LoadedItem, compose: _Compose, instruction: str) -> RerankHalf:
        inputs = self._inputs
        media = in_prompt_order(item.media)
        text = user_text(item.texts, has_media=bool(media))
        # The official cut keeps any number of visual tokens.
        drafts = self._drafter.drafts(item, media, None if inputs.over_length == "reference" else inputs.max_length)
        shrunk = False
        if inputs.over_length == "truncate" and any(medium.kind is MediaKind.VIDEO for medium in media):
            drafts, shrunk = self._drafter.fitted(drafts, self._room_tokens(instruction))
        ids = self._ids(compose([draft.slot for draft in drafts], text))
        self._refuse_misfit(ids)
        hashed = content_hash(text, instruction, media, self._drafter.sampling(item))
        return RerankHalf(assemble(item, drafts, ids.whole, truncated=shrunk, content_hash=hashed), ids)

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
