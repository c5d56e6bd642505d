"""The prompt of the reranker, and the only place that knows it, in two halves that are tokenised apart.

In: a resolved instruction, and the visuals and text of a query or of a document. Out: a `Prompt` for each half: the
prefix, equal for all documents of a query, and the suffix, equal for all queries of a document. The ids of one after
the other are those of the whole prompt. Refused: nothing.

The seam lies inside the words `<Document>:`, before `>`. Behind the colon it would be wrong: the tokenizer takes a run
of punctuation and marks, and the line breaks after it, as one piece, so what a document begins with (`.`, a combining
mark, an emoji) joins `>:`. In front of `>` nothing joins: `<Document` is a whole run of letters, and `>` neither
composes with a letter under NFC nor continues one.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.template import ANSWER_TURN, Prompt, VisualSlot, system_turn, visual_pieces

__all__ = [
    "DEFAULT_RERANK_INSTRUCTION",
    "RERANK_TEMPLATE_VERSION",
    "compose_document",
    "compose_query",
    "resolve_rerank_instruction",
]

RERANK_TEMPLATE_VERSION = "qwen3-vl-reranker-4.57/1"
"""Part of every fingerprint of scores: raise the number whenever a prompt of any pair changes."""

DEFAULT_RERANK_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."

_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)

_QUERY_TAIL = "\n<Document"
_DOCUMENT_HEAD = ">:"


def resolve_rerank_instruction(row: str | None, config: str | None) -> str:
    """The row's instruction, else the config's, else the default, as it is written: no stripping, no full stop."""
    return row or config or DEFAULT_RERANK_INSTRUCTION


def compose_query(instruction: str, visuals: Sequence[VisualSlot], text: str) -> Prompt:
    """The first half: instruction and query, up to the seam. A document never changes its ids."""
    shown, head = visual_pieces(f"user\n<Instruct>: {instruction}<Query>:", visuals)
    return Prompt((*system_turn(_SYSTEM), *shown), head, text, (), _QUERY_TAIL)


def compose_document(visuals: Sequence[VisualSlot], text: str) -> Prompt:
    """The second half: the document from the seam on, then the header of the answer; no `<|endoftext|>`."""
    shown, head = visual_pieces(_DOCUMENT_HEAD, visuals)
    return Prompt(tuple(shown), head, text, ANSWER_TURN)
