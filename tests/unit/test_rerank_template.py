"""The reranker's two halves: their ids are those of the whole prompt, whatever stands at the seam."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.rerank.template import (
    DEFAULT_RERANK_INSTRUCTION,
    compose_document,
    compose_query,
    resolve_rerank_instruction,
)
from pipeline.template import CONTROL_IDS, Plain, Prompt, VisualSlot
from pipeline.tokenizer import PromptTokenizer
from tests.fixtures.tokenizer import ADDED_TOKENS, CONTROL_COUNT, cached_tokenizer, rerank_tokenizer

NAMES = {token_id: token for token, token_id in CONTROL_IDS.items()}

# What begins a document or ends a query decides at the seam: marks that compose, line breaks, punctuation, emoji.
EDGE = st.sampled_from(
    [
        "\u0338", "\u0301\u0323", "\u0344", "\u3099", "\u200d", "\ufe0f", "\u20dd", "\u0345", "\u1161", "\uac00",
        "\n", "\r\n", "\n\n", " ", "  ", "\t", "\u00a0", "\u3000", "\u2028", "\x85", ".", "...", ":", "::", ">", "<",
        "<|", "|>", "'s", "'S", "'ll", "/", "//", "!\n", "1", "²", "Ⅷ", "é", "e\u0301", "ſ", "İ", "ﬁ", "中", "।",
        "👍🏽", "🇩🇪", "_", "-", "\x00", "\ufeff", "\ud800", *ADDED_TOKENS[CONTROL_COUNT:],
    ]
)  # fmt: skip
NASTY = st.one_of(
    st.lists(EDGE, max_size=5).map("".join),
    st.tuples(
        st.lists(EDGE, max_size=3).map("".join), st.text(max_size=12), st.lists(EDGE, max_size=3).map("".join)
    ).map("".join),
)
SLOTS = st.lists(
    st.builds(VisualSlot, st.integers(1, 5), st.none() | st.lists(st.floats(0, 99), max_size=3).map(tuple)), max_size=2
)


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return rerank_tokenizer()


@pytest.fixture(scope="module")
def library() -> Tokenizer:
    return Tokenizer.from_file(str(cached_tokenizer(append_eos=False) / "tokenizer.json"))


def as_string(prompt: Prompt) -> str:
    before, after = (
        "".join(piece.text if isinstance(piece, Plain) else NAMES[piece.token_id] * piece.count for piece in pieces)
        for pieces in (prompt.before, prompt.after)
    )
    return before + prompt.head + prompt.text + prompt.tail + after


def has_control(*texts: str) -> bool:
    return any(token in "\n<Document>:".join(texts) for token in CONTROL_IDS)


def check_seam(tokenizer: PromptTokenizer, library: Tokenizer, query: Prompt, document: Prompt) -> None:
    halves = [tokenizer.cuttable(half).whole for half in (query, document)]
    whole = (as_string(query) + as_string(document)).encode("utf-8", "replace").decode("utf-8")
    assert np.concatenate(halves).tolist() == library.encode(whole).ids


def seam_property(examples: int):  # noqa: ANN201 - a decorator
    arguments = given(instruction=NASTY, slots=st.tuples(SLOTS, SLOTS), query=NASTY, document=NASTY)
    return lambda test: settings(deadline=None, max_examples=examples)(arguments(test))


@seam_property(400)
def test_the_ids_of_the_halves_are_those_of_the_whole(
    tokenizer: PromptTokenizer,
    library: Tokenizer,
    instruction: str,
    slots: tuple[list[VisualSlot], list[VisualSlot]],
    query: str,
    document: str,
) -> None:
    if not has_control(instruction, query, document):
        check_seam(
            tokenizer, library, compose_query(instruction, slots[0], query), compose_document(slots[1], document)
        )


@pytest.mark.slow
@seam_property(20_000)
def test_twenty_thousand_seams(
    tokenizer: PromptTokenizer,
    library: Tokenizer,
    instruction: str,
    slots: tuple[list[VisualSlot], list[VisualSlot]],
    query: str,
    document: str,
) -> None:
    if not has_control(instruction, query, document):
        check_seam(
            tokenizer, library, compose_query(instruction, slots[0], query), compose_document(slots[1], document)
        )


def test_a_seam_behind_the_colon_would_be_wrong(library: Tokenizer) -> None:
    apart = [token for text in ("<Document>:", "://x") for token in library.encode(text).ids]
    assert apart != library.encode("<Document>:" + "://x").ids


@settings(deadline=None, max_examples=200)
@given(query=NASTY, document=NASTY, share=st.floats(0, 1))
def test_cuts_take_exactly_so_many_tokens_and_nothing_of_the_template(
    tokenizer: PromptTokenizer, query: str, document: str, share: float
) -> None:
    ends = "\n<Document", "<|im_end|>\n<|im_start|>assistant\n"
    for half, end in zip(
        (compose_query("Find.", (), query * 3), compose_document((), document * 3)), ends, strict=True
    ):
        ids = tokenizer.cuttable(half)
        wanted = ids.n_tokens - int(share * ids.text_tokens)
        cut = ids.without(int(share * ids.text_tokens))
        # A token less where the one that spans text and template counts as two.
        assert wanted - 1 <= len(cut) <= wanted
        assert tokenizer.decode(cut).endswith(end)
        assert np.isin(cut, list(NAMES)).sum() == np.isin(ids.whole, list(NAMES)).sum()
        assert ids.fixed_tokens + ids.text_tokens == len(ids.whole) <= len(ids.apart) + 1


@pytest.mark.parametrize(
    ("row", "config", "resolved"),
    [
        ("Find it", "c", "Find it"),
        (" a ", None, " a "),
        ("", "Look", "Look"),
        (None, None, DEFAULT_RERANK_INSTRUCTION),
        ("", "", DEFAULT_RERANK_INSTRUCTION),
    ],
)
def test_instructions_are_taken_as_they_are_written(row: str | None, config: str | None, resolved: str) -> None:
    assert resolve_rerank_instruction(row, config) == resolved
