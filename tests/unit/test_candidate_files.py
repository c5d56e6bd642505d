"""Candidate files: Parquet with ids of their own types, and a TREC run that comes last."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from pipeline.retrieval.candidate_files import CandidateFiles, candidates_of
from pipeline.retrieval.top_k import found_schema
from pipeline.storage import Store, open_store


def found(rows: list[tuple[int, float, str]]) -> pa.Table:
    cells = [{"query": query, "score": score, "id": name, "file": 0, "row": 0} for query, score, name in rows]
    return pa.Table.from_pylist(cells, schema=found_schema(pa.string()))


BLOCKS = [
    (pa.array([7, 8, 9]), found([(0, 0.5, "a"), (0, 0.25, "b"), (2, 1.0, "a")])),
    (pa.array([10]), found([(0, 0.75, "c")])),
]


def test_parts_keep_types_and_the_run_says_the_same(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with CandidateFiles(store, "r1", {"lakevec.k": "2"}, with_trec=True) as files:
        for ids, rows in BLOCKS:
            files.write(candidates_of(rows, ids))
        assert not store.exists("candidates/run=r1/run.trec")
        files.finish()
    table = _parts(store)
    assert table.schema.field("query_id").type == pa.int64()
    assert table.to_pylist() == [
        {"query_id": 7, "doc_id": "a", "rank": 1, "score": 0.5},
        {"query_id": 7, "doc_id": "b", "rank": 2, "score": 0.25},
        {"query_id": 9, "doc_id": "a", "rank": 1, "score": 1.0},
        {"query_id": 10, "doc_id": "c", "rank": 1, "score": 0.75},
    ]
    assert table.schema.metadata[b"lakevec.k"] == b"2"
    words = [line.split() for line in store.read("candidates/run=r1/run.trec").decode().splitlines()]
    assert [(query, name, int(rank), float(score)) for query, _, name, rank, score, _ in words] == [
        (str(row["query_id"]), row["doc_id"], row["rank"], row["score"]) for row in table.to_pylist()
    ]


def _parts(store: Store) -> pa.Table:
    paths = [file.path for file in store.list("candidates/run=r1") if file.path.endswith(".parquet")]
    return pa.concat_tables(pq.ParquetFile(store.open_input(path)).read() for path in paths)


def test_ids_that_a_run_cannot_hold_are_refused_unless_none_is_wanted(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = candidates_of(found([(0, 0.5, "a b")]), pa.array(["q"]))
    with CandidateFiles(store, "r1", {}, with_trec=True) as files, pytest.raises(ManifestError, match="'a b'"):
        files.write(rows)
    with CandidateFiles(store, "r2", {}, with_trec=False) as files:
        files.write(rows)
        files.finish()
    assert [file.path for file in store.list("candidates/run=r2")] == ["candidates/run=r2/part-00000.parquet"]
