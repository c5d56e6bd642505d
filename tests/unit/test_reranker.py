"""The reranker's scores: the official ones, whatever shares a prefix with whatever."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.reranker import Qwen3VLReranker
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import PreparedPair
from pipeline.rerank.prepare import RerankPreparer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind
from tests.fixtures.golden_cases import RERANK_NAMES, golden_rerank, png
from tests.fixtures.rerank import golden_pair, tiny_reranker
from tests.fixtures.small_device import SmallDevice
from tests.fixtures.tokenizer import rerank_tokenizer


@pytest.fixture(scope="module")
def reranker() -> Qwen3VLReranker:
    return tiny_reranker()


def official_logit(name: str) -> float:
    case = golden_rerank(name)
    return float(case["logit_diff"]) if "logit_diff" in case else math.log(case["score"] / (1 - case["score"]))


@pytest.mark.parametrize("together", [True, False])
def test_golden_scores(reranker: Qwen3VLReranker, together: bool) -> None:
    pairs = [golden_pair(name) for name in RERANK_NAMES]
    logits = (
        reranker.score(pairs).vectors[:, 0]
        if together
        else np.concatenate([reranker.score([pair]).vectors[:, 0] for pair in pairs])
    )
    for name, logit in zip(RERANK_NAMES, logits, strict=True):
        assert abs(logit - official_logit(name)) <= 1e-5, name
        assert abs(1 / (1 + math.exp(-logit)) - golden_rerank(name)["score"]) <= 1e-6, name


@functools.cache
def candidate_pairs() -> list[PreparedPair]:
    preparer = RerankPreparer(rerank_tokenizer(), RerankInputs())
    pictures = [LoadedMedia(MediaKind.IMAGE, (png(96, 64, seed),)) for seed in (1, 2)]
    clip = LoadedMedia(MediaKind.FRAMES, (png(64, 64, 3), png(64, 64, 4)))
    queries = [
        LoadedItem("a", ("a red bicycle",), ()),
        LoadedItem("b", (), (pictures[0],)),
        LoadedItem("c", ("both",), (pictures[1], clip)),
    ]
    documents = [
        LoadedItem("1", ("A bicycle leans against a wall.",), ()),
        LoadedItem("2", (), (pictures[0],)),
        LoadedItem("3", ("text and",), (pictures[1],)),
        LoadedItem("4", (), (clip,)),
    ]
    halves = [preparer.query(one) for one in queries], [preparer.document(one) for one in documents]
    return [preparer.pair(query, document) for query in halves[0] for document in halves[1]]


@functools.cache
def one_of(token_budget: int, sharing: bool) -> Qwen3VLReranker:
    return tiny_reranker(token_budget=token_budget, strict_rounding=not sharing)


@settings(max_examples=12)
@given(st.data())
def test_any_split_of_the_work_gives_the_same_scores(data: st.DataObject) -> None:
    pairs = candidate_pairs()
    reranker = one_of(data.draw(st.sampled_from([1, 150, 2_000])), data.draw(st.booleans()))
    order = data.draw(st.permutations(range(len(pairs))))
    size = data.draw(st.integers(1, len(pairs)))
    windows = [order[start : start + size] for start in range(0, len(order), size)]
    got = np.concatenate([reranker.score([pairs[index] for index in window]).vectors[:, 0] for window in windows])
    # Scores lie between 0 and 1; of logits of 10 float32 itself tells no more than 1e-6.
    expected = one_by_one()[list(order)]
    np.testing.assert_allclose(1 / (1 + np.exp(-got)), 1 / (1 + np.exp(-expected)), atol=1e-6)
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-5)


@functools.cache
def one_by_one() -> np.ndarray:
    reranker = tiny_reranker(deterministic=True)
    return np.concatenate([reranker.score([pair]).vectors[:, 0] for pair in candidate_pairs()])


def test_a_query_is_computed_once_for_all_its_documents(reranker: Qwen3VLReranker) -> None:
    pairs = candidate_pairs()[:8]
    counting = tiny_reranker()
    device = SmallDevice(counting, 1 << 30)
    counting.score(pairs)
    prefixes = {id(pair.prefix): pair.prefix.n_tokens for pair in pairs}
    assert len(prefixes) == 2
    assert sum(device.sizes) == sum(prefixes.values()) + sum(pair.suffix.n_tokens for pair in pairs)


def test_deterministic_scores_have_the_same_bits_in_any_company() -> None:
    pairs, reranker = candidate_pairs(), tiny_reranker(deterministic=True)
    np.testing.assert_array_equal(reranker.score(pairs).vectors[:, 0], one_by_one())


def test_a_pair_that_does_not_fit_is_lost_alone() -> None:
    pairs, expected = candidate_pairs(), one_by_one()
    long = replace(pairs[0], suffix=replace(pairs[0].suffix, **longer(pairs[0])))
    reranker = tiny_reranker()
    SmallDevice(reranker, max(max(pair.prefix.n_tokens, pair.suffix.n_tokens) for pair in pairs))
    encoded = reranker.score([*pairs, long])
    assert [index for index, _ in encoded.too_large] == [len(pairs)]
    np.testing.assert_allclose(encoded.vectors[:-1, 0], expected, rtol=2e-6, atol=1e-5)
    assert np.isnan(encoded.vectors[-1, 0])


def longer(pair: PreparedPair) -> dict[str, np.ndarray]:
    ids = np.tile(pair.suffix.input_ids, 60)
    return {"input_ids": ids, "position_ids": np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))}


def test_no_pairs_no_scores(reranker: Qwen3VLReranker) -> None:
    assert reranker.score([]).vectors.shape == (0, 1)
