"""Pairs of halves: what `fit` takes, what the official cut takes, and positions across the seam."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RejectCode, RejectError
from pipeline.positions import mrope_positions
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import fit, join
from pipeline.rerank.prepare import RerankPreparer
from pipeline.template import CONTROL_IDS
from pipeline.types import LoadedItem, LoadedMedia, MediaKind
from tests.fixtures.golden_cases import png
from tests.fixtures.tokenizer import rerank_tokenizer

SIDE = st.tuples(st.integers(0, 60), st.integers(0, 60))
IMAGE = LoadedMedia(MediaKind.IMAGE, (png(96, 64, 1),))
CONTROL = list(CONTROL_IDS.values())


def preparer(**inputs: Any) -> RerankPreparer:
    return RerankPreparer(rerank_tokenizer(), RerankInputs.model_validate(inputs))


def said(text: str, *media: LoadedMedia) -> LoadedItem:
    return LoadedItem("i", (text,), media)


@given(query=SIDE, document=SIDE, max_length=st.integers(0, 150))
def test_fit_cuts_the_longer_text_and_leaves_some_of_each(
    query: tuple[int, int], document: tuple[int, int], max_length: int
) -> None:
    (fixed_q, text_q), (fixed_d, text_d) = query, document
    cuts = fit(fixed_q + text_q, text_q, fixed_d + text_d, text_d, max_length)
    total = fixed_q + text_q + fixed_d + text_d
    least = fixed_q + bool(text_q) + fixed_d + bool(text_d)
    assert (cuts is None) == (total > max_length and least > max_length)
    if cuts is None:
        return
    kept_q, kept_d = text_q - cuts[0], text_d - cuts[1]
    assert 0 <= kept_q <= text_q
    assert 0 <= kept_d <= text_d
    assert total - sum(cuts) == min(total, max_length)
    assert bool(kept_q) == bool(text_q)
    assert bool(kept_d) == bool(text_d)
    if cuts[0]:
        assert kept_q >= kept_d
        assert kept_q - kept_d <= 1 or not cuts[1]
    if cuts[1]:
        assert kept_d >= kept_q - 1


@given(query=SIDE, text=st.integers(0, 60), max_length=st.integers(1, 150), more=st.integers(1, 500))
def test_how_much_longer_a_text_is_changes_nothing_for_the_other(
    query: tuple[int, int], text: int, max_length: int, more: int
) -> None:
    fixed, text_q = query
    short, long = (fit(fixed + text_q, text_q, 7 + n, n, max_length) for n in (max_length + 1, max_length + more))
    assert (short is None) == (long is None)
    assert short is None or long is None or short[0] == long[0]


@settings(deadline=None, max_examples=60)
@given(
    query=st.integers(1, 120),
    document=st.integers(1, 120),
    images=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    max_length=st.integers(64, 200),
)
def test_a_cut_pair_has_max_length_tokens_and_every_control_token(
    query: int, document: int, images: tuple[int, int], max_length: int
) -> None:
    ours = preparer(max_length=max_length)
    roomy = preparer()
    items = said("dog. \n" * query, *[IMAGE] * images[0]), said("a cat " * document, *[IMAGE] * images[1])
    whole = roomy.pair(roomy.query(items[0]), roomy.document(items[1]))
    least = whole.n_tokens - sum(half.ids.text_tokens - 1 for half in (roomy.query(items[0]), roomy.document(items[1])))
    if least > max_length:
        with pytest.raises(RejectError) as error:
            ours.pair(ours.query(items[0]), ours.document(items[1]))
        assert error.value.code is RejectCode.OVER_LENGTH
        return
    half = ours.query(items[0])
    pair = ours.pair(half, ours.document(items[1]))
    assert min(max_length, whole.n_tokens) - 1 <= pair.n_tokens <= max_length
    assert pair.truncated == (whole.n_tokens > max_length)
    assert pair.shared == (pair.prefix is half.prepared)
    for cut, full in ((pair.prefix, whole.prefix), (pair.suffix, whole.suffix)):
        assert np.isin(cut.input_ids, CONTROL).sum() == np.isin(full.input_ids, CONTROL).sum()
        grids = [visual.grid_thw for visual in cut.visuals]
        assert cut.position_ids.tolist() == mrope_positions(cut.input_ids, grids).tolist()
    joined = join(pair)
    grids = [visual.grid_thw for visual in joined.visuals]
    assert joined.position_ids.tolist() == mrope_positions(joined.input_ids, grids).tolist()


def official_cut(ids: list[int], max_length: int) -> list[int]:
    """The contract's words in plain Python: section 3.4."""
    body, tail = ids[:-5], ids[-5:]
    if len(body) <= max_length:
        return ids
    left = max_length - sum(token in CONTROL for token in body)
    kept = []
    for token in body:
        if token in CONTROL:
            kept.append(token)
        elif left > 0:
            kept.append(token)
            left -= 1
    return kept + tail


@settings(deadline=None, max_examples=60)
@given(
    query=st.integers(0, 60),
    document=st.integers(0, 60),
    images=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    max_length=st.integers(64, 130),
)
def test_the_reference_s_cut(query: int, document: int, images: tuple[int, int], max_length: int) -> None:
    ours, roomy = preparer(max_length=max_length, over_length="reference"), preparer()
    items = said("dog " * query, *[IMAGE] * images[0]), said("cat " * document, *[IMAGE] * images[1])
    whole = join(roomy.pair(roomy.query(items[0]), roomy.document(items[1])))
    half = ours.query(items[0])
    pair = ours.pair(half, ours.document(items[1]))
    assert join(pair).input_ids.tolist() == official_cut(whole.input_ids.tolist(), max_length)
    assert pair.shared == (pair.prefix.input_ids.tolist() == half.ids.whole.tolist())
    grids = [visual.grid_thw for visual in join(pair).visuals]
    assert join(pair).position_ids.tolist() == mrope_positions(join(pair).input_ids, grids).tolist()


def test_reject_refuses_any_cut() -> None:
    query, document = said("dog"), said("cat " * 50)
    length = join(preparer().pair(preparer().query(query), preparer().document(document))).n_tokens
    exact = preparer(max_length=length, over_length="reject")
    assert not exact.pair(exact.query(query), exact.document(document)).truncated
    short = preparer(max_length=length - 1, over_length="reject")
    with pytest.raises(RejectError) as error:
        short.pair(short.query(query), short.document(document))
    assert error.value.code is RejectCode.OVER_LENGTH
