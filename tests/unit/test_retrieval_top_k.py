"""The k best: the same as sorting everything, however the documents come, ties included."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import top_k
from pipeline.retrieval.top_k import Best, best_of, ranks

IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, min_size=1, max_size=40),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), unique=True, min_size=1, max_size=40),
)


def brute_force(ids: list[Any], scores: Any, k: int) -> list[list[tuple[Any, float]]]:
    """Every query's list, by sorting all documents: score first, then id (texts by code point)."""
    order = [
        sorted(range(len(ids)), key=lambda row: (-scores[row, query], ids[row])) for query in range(scores.shape[1])
    ]
    return [[(ids[row], scores[row, query]) for row in rows[:k]] for query, rows in enumerate(order)]


def lists_of(found: pa.Table, n_queries: int) -> list[list[tuple[Any, float]]]:
    lists: list[list[tuple[Any, float]]] = [[] for _ in range(n_queries)]
    for row in found.to_pylist():
        lists[row["query"]].append((row["id"], row["score"]))
    return lists


@given(IDS, st.data())
@settings(max_examples=150, deadline=None)
def test_any_split_and_any_k_give_what_sorting_gives(ids: list[Any], data: st.DataObject) -> None:
    n_queries, k = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 45))
    # Few different scores: most lists end among documents that are equally good.
    cells = st.sampled_from([np.float32(each) for each in (-1.0, -0.25, 0.0, 0.1, 0.5)])
    drawn = data.draw(st.lists(cells, min_size=len(ids) * n_queries, max_size=len(ids) * n_queries))
    scores = np.array(drawn, np.float32).reshape(len(ids), n_queries)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(ids)), max_size=5)) | {0, len(ids)})
    split = data.draw(st.integers(0, n_queries))
    array = pa.array(ids)
    at_once, several = Best(n_queries, k, array.type), []
    for file, (start, end) in enumerate(pairwise(cuts)):
        alone = Best(n_queries, k, array.type)
        rows = np.arange(end - start)
        for best in (at_once, alone):
            best.offer(scores[start:end, :split], 0, array[start:end], file, rows)
            best.offer(scores[start:end, split:], split, array[start:end], file, rows)
        several.append(alone.table())
    expected = brute_force(ids, scores, k)
    assert lists_of(at_once.table(), n_queries) == expected
    assert lists_of(best_of(data.draw(st.permutations(several)), k), n_queries) == expected
    for row in at_once.table().to_pylist():
        assert ids[cuts[row["file"]] + row["row"]] == row["id"]


def test_what_waits_is_merged_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "COMPACT_ROWS", 16)
    scores = np.random.default_rng(0).permutation(4000).astype(np.float32).reshape(2000, 2)
    best = Best(2, 5, pa.int64())
    most = 0
    for start in range(0, 2000, 10):
        best.offer(scores[start : start + 10], 0, pa.array(range(start, start + 10)), 0, np.arange(10))
        most = max(most, best._n_waiting + best._held.num_rows)
    assert most <= 16 + 10 + 20
    assert lists_of(best.table(), 2) == brute_force(list(range(2000)), scores, 5)


def test_ranks_count_within_each_query() -> None:
    found = pa.table({"query": pa.array([0, 0, 2, 2, 2, 5], pa.int32())})
    assert ranks(found).tolist() == [1, 2, 1, 2, 3, 1]
    assert ranks(found.slice(0, 0)).tolist() == []
