"""Outcomes of windows of pairs: what travels, what a logit becomes, and what becomes of pairs without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import RejectCode
from pipeline.models.encoder import Encoded
from pipeline.outcomes import COST_FIELDS
from pipeline.rerank.outcomes import crashed_pairs, pair_outcomes
from pipeline.rerank.schema import PAIR_FIELDS, SCORES
from pipeline.rerank.window import PairWindow, pack_pairs, unpack_pairs
from tests.fixtures.prepared import clip_item, image_item, mixed_item, text_item
from tests.fixtures.score_cases import wanted

HALVES = [text_item(3, 1), text_item(5, 2), image_item(seed=3), mixed_item(4), clip_item(seed=5)]
PARTS = [(0, 1), (0, 2), (3, 2), (3, 4)]


def pair(doc: str, **fields: Any) -> dict[str, Any]:
    return {"attempts": 0} | {k: v for k, v in wanted("q", doc, 1).items() if k != "detail"} | fields


def window() -> PairWindow:
    """Four pairs that can be scored, and between them a refused one that was refused before."""
    pairs = [
        pair(f"d{n}", prefix=prefix, suffix=suffix, truncated=n == 1, n_tokens=10 + n, n_visual_tokens=n)
        for n, (prefix, suffix) in enumerate(PARTS)
    ]
    refused = pair("bad", code="NOT_FOUND", detail="document: gone", retryable=False, attempts=2)
    return unpack_pairs(pack_pairs(HALVES, [*pairs[:2], refused, *pairs[2:]], 1.5))


def encoded(*logits: float, **facts: Any) -> Encoded:
    return Encoded(np.array(logits, np.float32)[:, None], padded_tokens=50, forwards=2, filled=0.5, **facts)


def test_a_window_comes_back_as_it_was_packed() -> None:
    got = window()
    assert got.rows.tolist() == [0, 1, 3, 4]
    assert [tuple(each) for each in got.parts.tolist()] == PARTS
    assert got.prepare_s == 1.5
    assert got.facts.column("doc_id").to_pylist() == ["d0", "d1", "bad", "d2", "d3"]
    assert got.facts.column("detail").to_pylist() == [None, None, "document: gone", None, None]
    for sent, half in zip(HALVES, got.halves, strict=True):
        assert half.input_ids.tolist() == sent.input_ids.tolist()
        assert half.position_ids.tolist() == sent.position_ids.tolist()
        assert half.content_hash == sent.content_hash
        for one, other in zip(sent.visuals, half.visuals, strict=True):
            assert (one.kind, one.grid_thw) == (other.kind, other.grid_thw)
            assert np.array_equal(one.frames, other.frames)


def test_a_window_of_nothing_but_refused_pairs_travels_too() -> None:
    got = unpack_pairs(pack_pairs([], [pair("a", code="NOT_FOUND"), pair("b", code="NOT_FOUND")], 0.1))
    assert (got.halves, got.rows.tolist(), got.parts.shape) == ((), [], (0, 2))
    table = pair_outcomes(got, Encoded(np.empty((0, 1), np.float32)), encode_s=0.0)
    assert table.column("status").to_pylist() == ["rejected"] * 2


def test_logits_become_scores_and_the_refused_count_an_attempt() -> None:
    logits = [0.25, -80.0, 3.5, 120.0]
    table = pair_outcomes(window(), encoded(*logits), encode_s=2.0)
    assert table.select(SCORES.names).schema.equals(SCORES)
    rows = table.to_pylist()
    scored = [row for row in rows if row["status"] == "scored"]
    assert [row["doc_id"] for row in scored] == ["d0", "d1", "d2", "d3"]
    assert [row["logit"] for row in scored] == logits
    assert [row["score"] for row in scored] == pytest.approx([1 / (1 + np.exp(-np.float64(x))) for x in logits])
    assert 0 < scored[1]["score"] < 1e-30  # a float64: the tail is told apart
    assert [(row["attempts"], row["code"], row["retryable"]) for row in scored] == [(0, None, None)] * 4
    assert [(row["n_tokens"], row["truncated"]) for row in scored] == [
        (10, False),
        (11, True),
        (12, False),
        (13, False),
    ]
    bad = rows[2]
    assert (bad["status"], bad["code"], bad["detail"]) == ("rejected", "NOT_FOUND", "document: gone")
    assert (bad["attempts"], bad["retryable"], bad["score"], bad["logit"], bad["rank"]) == (3, False, None, None, None)


def test_a_window_s_cost_is_told_once_in_all() -> None:
    table = pair_outcomes(window(), encoded(1, 2, 3, 4), encode_s=2.0)
    totals = [sum(table.column(field.name).to_pylist()) for field in COST_FIELDS]
    assert totals == pytest.approx([1.5, 2.0, 50, 2, 0.5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_a_reject(bad: float) -> None:
    rows = pair_outcomes(window(), encoded(1.0, 2.0, bad, 4.0), encode_s=0.0).to_pylist()
    assert [row["code"] for row in rows] == [None, None, "NOT_FOUND", "NON_FINITE", None]
    assert (rows[3]["score"], rows[3]["logit"], rows[3]["attempts"]) == (None, None, 1)


def test_a_pair_too_large_for_the_device_says_so() -> None:
    rows = pair_outcomes(window(), encoded(1.0, np.nan, 3.0, 4.0, too_large=((1, "9 GiB"),)), encode_s=0).to_pylist()
    assert [row["code"] for row in rows] == [None, "GPU_OOM", "NOT_FOUND", None, None]
    assert rows[1]["detail"] == "9 GiB"
    assert rows[1]["retryable"] == RejectCode.GPU_OOM.meaning.retryable


def test_crashed_pairs_keep_their_places_and_count_an_attempt() -> None:
    pairs = [pair("a", query=0, document=0), pair("b", query=0, document=1, attempts=1)]
    table = crashed_pairs([{"pairs": pairs[:1]}, {"pairs": pairs[1:]}], "died twice")
    assert table.schema.equals(SCORES)
    rows = table.to_pylist()
    names = [field.name for field in PAIR_FIELDS if field.name != "attempts"]
    assert [[row[name] for name in names] for row in rows] == [[each[name] for name in names] for each in pairs]
    assert [(row["code"], row["detail"], row["retryable"], row["attempts"]) for row in rows] == [
        ("WORKER_CRASHED", "died twice", True, 1), ("WORKER_CRASHED", "died twice", True, 2),
    ]  # fmt: skip
