"""Candidate lists of every format, from real files: the same pairs, ranked by the same rules."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candidates.candidates import Candidates, open_candidates
from pipeline.candidates.listing import CandidateFormat
from pipeline.candidates.pairs import CANDIDATES, RawPair, batched, ranked
from pipeline.errors import ConfigError, ManifestError
from pipeline.rerank.config import CandidatesConfig
from pipeline.storage import open_store
from tests.fixtures.manifests import opened, rows_of, write_jsonl, write_parquet, write_text
from tests.fixtures.s3_server import S3Server

RUN = "q1 Q0 a 1 9.5 tag\nq1 Q0 b 2 9.5 tag\nq2\tQ0\tb\t1\t-1e3\ta tag\n"
PAIRS = [("q1", "a", 1, 9.5), ("q1", "b", 2, 9.5), ("q2", "b", 1, -1000.0)]


def found(path: Path | str | None, scratch: Path, **config: Any) -> Candidates:
    where = None if path is None else str(path)
    scratch.mkdir(exist_ok=True)
    return open_candidates(CandidatesConfig(path=where, **config), {}, scratch)


def pairs_of(candidates: Candidates) -> list[tuple[Any, ...]]:
    tables = list(candidates.batches())
    assert all(table.schema.equals(CANDIDATES) for table in tables)
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


def texts_of(manifest: str | None) -> dict[str, str]:
    assert manifest is not None
    return {row.id: "".join(row.texts) for row in rows_of(opened(manifest))}


def test_parquet_pairs(tmp_path: Path) -> None:
    columns = {"query_id": ["q2", "q1", "q1"], "doc_id": ["b", "b", "a"], "score": [-1000, 9.5, 9.5]}
    path = write_parquet(tmp_path / "c" / "part.parquet", columns)
    candidates = found(path.parent, tmp_path)
    assert candidates.format is CandidateFormat.PAIRS
    assert pairs_of(candidates) == [PAIRS[2], PAIRS[0], PAIRS[1]]
    assert pairs_of(found(path, tmp_path, top_k=1)) == [PAIRS[2], PAIRS[0]]
    assert (candidates.queries_manifest, candidates.documents_manifest) == (None, None)


def test_parquet_pairs_under_other_names_and_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "qid": pa.array([7, 7, 7], pa.uint16()),
            "pid": pa.array(["x", "y", "x2"]).dictionary_encode(),
            "rank": pa.array([30.0, 10.0, None]),
        }
    )
    path = write_parquet(tmp_path / "c.parquet", table)
    candidates = found(path, tmp_path, columns={"query_id": "qid", "doc_id": "pid"})
    assert pairs_of(candidates) == [("7", "y", 1, None), ("7", "x", 2, None), ("7", "x2", 3, None)]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_parquet_lists(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table(
        {
            "query_id": ["q1", "q2", "q3"],
            "doc_ids": pa.array([["b", "a"], None, ["a", "c"]], kind),
            "scores": pa.array([[1, 2], None, [0, 0]], pa.list_(pa.int64())),
        }
    )
    candidates = found(write_parquet(tmp_path / "c.parquet", table), tmp_path)
    assert candidates.format is CandidateFormat.LISTS
    expected = [("q1", "b", 1, 1.0), ("q1", "a", 2, 2.0), ("q3", "a", 1, 0.0), ("q3", "c", 2, 0.0)]
    assert pairs_of(candidates) == expected


def test_trec_runs_of_several_files_and_compressed(tmp_path: Path) -> None:
    lines = RUN.splitlines(keepends=True)
    write_text(tmp_path / "run" / "1.trec", "\ufeff" + "".join(lines[:2]) + "\n")
    (tmp_path / "run" / "2.trec.gz").write_bytes(gzip.compress(lines[2].replace("\n", "\r\n").encode()))
    candidates = found(tmp_path / "run", tmp_path)
    assert candidates.format is CandidateFormat.TREC
    assert pairs_of(candidates) == PAIRS
    assert pairs_of(found(write_text(tmp_path / "noext", RUN), tmp_path)) == PAIRS


def written(output: Path, run_id: str, document: str, *, exit_code: int | None = None, trec: bool = True) -> Path:
    folder = output / "candidates" / f"run={run_id}"
    write_parquet(folder / "part-00000.parquet", {"query_id": ["q"], "doc_id": [document], "rank": [1]})
    if trec:
        write_text(folder / "run.trec", f"q Q0 {document} 1 1.0 lakevec\n")
    write_text(output / "reports" / run_id / "summary.json", json.dumps({"exit_code": exit_code}))
    return folder


def test_of_a_retrieval_job_the_newest_complete_lists(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = written(output, "20260101T000000Z-bb", "old")
    written(output, "20260201T000000Z-aa", "stopped", exit_code=5, trec=False)
    assert pairs_of(found(output, tmp_path)) == [("q", "old", 1, None)]
    written(output, "20260301T000000Z-cc", "new", exit_code=0, trec=False)
    assert pairs_of(found(output, tmp_path)) == [("q", "new", 1, None)]
    assert pairs_of(found(first, tmp_path)) == [("q", "old", 1, None)]


def test_of_a_retrieval_job_that_never_ended_nothing_is_taken(tmp_path: Path) -> None:
    written(tmp_path / "out", "20260101T000000Z-bb", "some", exit_code=5, trec=False)
    with pytest.raises(ManifestError, match="none of its 1 runs ended"):
        found(tmp_path / "out", tmp_path)


def test_a_forced_format_needs_no_suffix(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "part-0", {"query_id": ["q"], "doc_id": ["d"]})
    assert pairs_of(found(path, tmp_path, format="pairs")) == [("q", "d", 1, None)]
    with pytest.raises(ManifestError, match="no column 'doc_ids'"):
        pairs_of(found(path, tmp_path, format="lists"))


@pytest.mark.s3
def test_lists_and_a_beir_folder_in_an_object_store(tmp_path: Path, s3_server: S3Server, s3_bucket: str) -> None:
    store = open_store(f"{s3_bucket}/candidates", s3_server.storage_options)
    store.put("run/1.trec", RUN.encode())
    for local in (folder := beir(tmp_path / "beir")).rglob("*.*"):
        store.upload(str(local), f"beir/{local.relative_to(folder)}")
    config = CandidatesConfig(path=f"{store.root}/run/*.trec", beir=f"{store.root}/beir")
    assert pairs_of(open_candidates(config, s3_server.storage_options, tmp_path)) == PAIRS
    judged = open_candidates(CandidatesConfig(path=f"{store.root}/beir"), s3_server.storage_options, tmp_path)
    assert pairs_of(judged) == pairs_of(found(folder, tmp_path))
    shut = {"s3": {**s3_server.storage_options["s3"], "secret": "wrong-canary"}}
    for config, said in (
        (CandidatesConfig(path=f"{store.root}/run"), f"candidates.path: cannot list {store.root}/run: PermissionError"),
        (
            CandidatesConfig(beir=f"{store.root}/beir"),
            f"candidates: cannot list {store.root}/beir/qrels: PermissionError",
        ),
        (CandidatesConfig(path=f"{store.root}/beir", format="beir"), "candidates.path: cannot list"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)) as error:
            open_candidates(config, shut, tmp_path)
        assert str(error.value).endswith("check the path, the credentials and fetch.storage_options")
        assert "canary" not in str(error.value)


def test_the_first_and_the_last_rank_of_64_bits_are_ranks(tmp_path: Path) -> None:
    lines = f"q Q0 last {2**63 - 1} 0.5 t\nq Q0 first {-(2**63)} 0.4 t\n"
    pairs = pairs_of(found(write_text(tmp_path / "c.trec", lines), tmp_path))
    assert [(doc_id, rank) for _, doc_id, rank, _ in pairs] == [("first", 1), ("last", 2)]


def rankllm(path: Path, doc: Any = None) -> Path:
    candidates = [{"docid": "a", "score": 9.5, "doc": doc}, {"docid": 5, "doc": doc}]
    return write_jsonl(
        path,
        [
            {"query": {"text": "first?", "qid": 1}, "candidates": candidates},
            {"query": {"text": "second?", "qid": "2"}, "candidates": candidates[:1]},
            {"query": {"text": "none", "qid": "3"}, "candidates": []},
        ],
    )


def test_rankllm_brings_its_texts_along(tmp_path: Path) -> None:
    candidates = found(rankllm(tmp_path / "c.jsonl", {"title": "T", "contents": "words"}), tmp_path)
    assert candidates.format is CandidateFormat.RANKLLM
    assert pairs_of(candidates) == [("1", "a", 1, 9.5), ("1", "5", 2, None), ("2", "a", 1, 9.5)]
    assert texts_of(candidates.queries_manifest) == {"1": "first?", "2": "second?", "3": "none"}
    assert texts_of(candidates.documents_manifest) == {"a": "T words", "5": "T words"}
    bare = found(rankllm(tmp_path / "bare.jsonl"), tmp_path / "bare")
    assert bare.documents_manifest is None
    plain = found(rankllm(tmp_path / "plain.jsonl", "only text"), tmp_path / "plain")
    assert texts_of(plain.documents_manifest) == {"a": "only text", "5": "only text"}


def test_mmeb_predictions_name_queries_by_their_place(tmp_path: Path) -> None:
    rows = [
        {"prediction": ["b", "a"], "label": ["a"], "rel_scores": None},
        {"prediction": [], "label": ["a"], "rel_scores": None},
        {"prediction": ["c"], "label": ["c"], "rel_scores": None, "rerank_scores": [0.5]},
    ]
    candidates = found(write_jsonl(tmp_path / "set_pred.jsonl", rows), tmp_path)
    assert candidates.format is CandidateFormat.MMEB
    assert pairs_of(candidates) == [("0", "b", 1, None), ("0", "a", 2, None), ("2", "c", 1, 0.5)]


def beir(folder: Path) -> Path:
    write_jsonl(
        folder / "corpus.jsonl",
        [
            {"_id": "d1", "title": "Title", "text": "body", "metadata": {}},
            {"_id": "d2", "title": "", "text": "no title"},
            {"_id": "d\u2028", "text": "a line\u2028of two"},
        ],
    )
    write_jsonl(folder / "queries.jsonl", [{"_id": "1", "text": "eins"}, {"_id": "2", "text": "zwei"}])
    write_text(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n2\td2\t0\n2\td1\t2\n1\td\u2028\t1\n")
    write_text(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\n1\td1\t1\n")
    return folder


def test_beir_folders_give_texts_and_judged_pairs_without_the_judgement(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir")
    candidates = found(folder, tmp_path)
    assert candidates.format is CandidateFormat.BEIR
    assert pairs_of(candidates) == [("2", "d2", 1, None), ("2", "d1", 2, None), ("1", "d\u2028", 1, None)]
    assert texts_of(candidates.queries_manifest) == {"1": "eins", "2": "zwei"}
    assert texts_of(candidates.documents_manifest) == {
        "d1": "Title body",
        "d2": "no title",
        "d\u2028": "a line\u2028of two",
    }
    assert pairs_of(found(None, tmp_path, beir=str(folder))) == pairs_of(candidates)


def test_a_run_beside_a_beir_folder(tmp_path: Path) -> None:
    run = write_text(tmp_path / "bm25.txt", "1 Q0 d1 1 3 t\n")
    candidates = found(run, tmp_path, beir=str(beir(tmp_path / "beir")))
    assert pairs_of(candidates) == [("1", "d1", 1, 3.0)]
    assert set(texts_of(candidates.documents_manifest)) == {"d1", "d2", "d\u2028"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.parquet", {"query": ["q"], "doc_id": ["d"]}, ["no column 'query_id'", "query (string)", "columns"]),
        ("c.parquet", {"query_id": ["q"], "doc_id": [None]}, ["'doc_id'", "null"]),
        ("c.parquet", {"query_id": ["q"], "doc_id": ["d"], "score": ["high"]}, ["'score'", "a number", "string"]),
        ("c.parquet", {"query_id": ["q"], "doc_id": ["d"], "rank": [1.5]}, ["c.parquet", "1.5"]),
        ("c.parquet", {"query_id": ["q", "q"], "doc_ids": [["a"], ["b"]]}, ["1 queries with more than one", "'q'"]),
        ("c.parquet", {"query_id": ["q"], "doc_ids": [["a", None]]}, ["'doc_ids'", "null in row 0"]),
        ("c.parquet", {"query_id": ["q"], "doc_ids": [["a"]], "scores": [[1.0, 2.0]]}, ["row 0", "expected as many"]),
        ("c.parquet", {"query_id": ["q"] * 3, "doc_id": ["a", "b", "a"]}, ["1 pairs", "'q', 'a' (2 times)"]),
        ("c.parquet", {"query_id": pa.array([], pa.string()), "doc_id": pa.array([], pa.string())}, ["no pair"]),
        ("c.trec", "q Q0 d 1 0.5 t\nq Q0 e two 0.4 t\n", ["line 2", "c.trec", "two"]),
        ("c.trec", f"q Q0 d 1 0.5 t\nq Q0 e {2**63} 0.4 t\n", ["line 2", "rank", str(2**63), "64 bits"]),
        ("c.trec", f"q Q0 d {-(2**63) - 1} 0.5 t\n", ["line 1", "64 bits"]),
        ("c.trec", f"q Q0 d {'9' * 5000} 0.5 t\n", ["line 1", "expected qid Q0 docid rank score tag"]),
        ("c.trec", "q Q0 d 1 0.5 t\nq Q0 d\n", ["line 2", "expected qid Q0 docid rank score tag"]),
        ("c.trec", "q Q0 d 1 0.5 t\nq Q0 doc 7 1 0.5 t\n", ["line 2", "'q Q0 doc 7 1 0.5 t'"]),
        ("c.txt", "hello world\n", ["is no candidate list", "hello world"]),
        ("c.trec", "", ["is no candidate list"]),
        ("c.trec", b"q Q0 \xff 1 0.5 t\n", ["c.trec"]),
        ("c.jsonl", '{"id": 1}\n', ["candidates (RankLLM)", "'id'"]),
        ("c.jsonl", '{"query": {"qid": 1}, "candidates": []}\n', ["line 1", "'text'", "'qid'"]),
        ("c.jsonl", '{"query": {"qid": 1, "text": "t"}, "candidates": [{"id": 3}]}\n', ["no 'docid'", "'id'"]),
        ("c.jsonl", '{"query": {"qid": 1, "text": "t"}, "candidates": [3]}\n', ["expected an object", "3"]),
        (
            "c.jsonl",
            '{"query": {"qid": 1, "text": "t"}, "candidates": [{"docid": 3, "doc": {"txt": ""}}]}\n',
            ["document '3' has no text", "'txt'"],
        ),
        ("c.jsonl", '{"prediction": ["a"]}\n{"prediction": ["a"], "rerank_scores": [1, 2]}\n', ["line 2", "as many"]),
        ("c.jsonl", f'{{"prediction": ["a"], "rerank_scores": [1{"0" * 400}]}}\n', ["line 1", "float64", "numbers"]),
        (
            "c.jsonl",
            f'{{"query": {{"qid": 1, "text": "t"}}, "candidates": [{{"docid": 3, "score": -1{"0" * 400}}}]}}\n',
            ["line 1", "a number that a float64 holds in 'score'"],
        ),
        ("c.jsonl", '{"prediction": ["a\\ud800"]}\n', ["line 1", "no Unicode text"]),
        ("c.jsonl", '{"prediction": [null]}\n', ["an id", "None"]),
        ("c.jsonl", '{"prediction": ["a"]}\n{"prediction"\n', ["line 2", "no JSON"]),
        ("c.jsonl", '{"prediction": ["a"]}\n[]\n', ["line 2", "no JSON object"]),
    ],
)  # fmt: skip
def test_what_is_no_list_is_refused_with_what_was_found(
    tmp_path: Path, name: str, content: Any, words: list[str]
) -> None:
    path = tmp_path / "lists" / name
    if isinstance(content, dict):
        write_parquet(path, content)
    elif isinstance(content, bytes):
        path.parent.mkdir()
        path.write_bytes(content)
    else:
        write_text(path, content)
    with pytest.raises(ManifestError) as caught:
        pairs_of(found(path, tmp_path))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_texts_that_are_no_unicode_are_read_with_question_marks(tmp_path: Path) -> None:
    line = '{"query": {"qid": 1, "text": "a\\ud83d"}, "candidates": [{"docid": "d", "doc": {"text": "\\udc00b"}}]}\n'
    candidates = found(write_text(tmp_path / "requests.jsonl", line), tmp_path / "scratch")
    assert texts_of(candidates.queries_manifest) == {"1": "a?"}
    assert texts_of(candidates.documents_manifest) == {"d": "?b"}


def test_files_that_are_missing_or_of_several_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="have no files"):
        found(tmp_path / "nothing", tmp_path)
    write_text(tmp_path / "mix" / "a.trec", RUN)
    write_parquet(tmp_path / "mix" / "b.parquet", {"query_id": ["q"], "doc_id": ["d"]})
    with pytest.raises(ManifestError, match=r"mix formats.*a\.trec"):
        found(tmp_path / "mix", tmp_path)
    for name in "ab":
        write_jsonl(tmp_path / "mmeb" / f"{name}_pred.jsonl", [{"prediction": ["a"]}])
    with pytest.raises(ManifestError, match="one data set's file"):
        pairs_of(found(tmp_path / "mmeb", tmp_path))


def test_damaged_beir_folders_are_refused(tmp_path: Path) -> None:
    folder = beir(tmp_path / "beir")
    write_text(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n2 d2 0\n")
    with pytest.raises(ManifestError, match="parted by tabs"):
        pairs_of(found(folder, tmp_path))
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "dev.tsv")
    with pytest.raises(ManifestError, match=r"2 files qrels.*none is test\.tsv"):
        found(folder, tmp_path)
    (folder / "qrels" / "dev.tsv").unlink()
    write_jsonl(folder / "corpus.jsonl", [{"_id": "d", "text": "one"}, {"_id": "d", "text": "two"}])
    with pytest.raises(ManifestError, match="give a document different texts; expected one an id; found 'd'"):
        found(folder, tmp_path)
    with pytest.raises(ManifestError, match=r"nowhere has no queries\.jsonl"):
        found(write_text(tmp_path / "run", RUN), tmp_path, beir=str(tmp_path / "nowhere"))


RANK = st.none() | st.integers(-2, 3)
SCORE = st.none() | st.sampled_from([0.0, 1.5, -2.0, math.inf, math.nan])
ROWS = st.dictionaries(st.tuples(st.sampled_from("pq"), st.sampled_from("abcdef")), st.tuples(RANK, SCORE), min_size=1)


def expected_ranks(rows: list[RawPair], top_k: int) -> list[tuple[str, str, int]]:
    def place(seq: int) -> tuple[Any, ...]:
        _, doc_id, rank, score = rows[seq]
        known = score is not None and not math.isnan(score)
        return (
            *((rank is None, rank or 0), (not known, -score if known else 0)),  # type: ignore[operator]
            doc_id if known else "",
            seq,
        )

    ranks = []
    for query in dict.fromkeys(row[0] for row in rows):
        ordered = sorted((seq for seq, row in enumerate(rows) if row[0] == query), key=place)
        ranks += [(query, rows[seq][1], rank) for rank, seq in enumerate(ordered[:top_k], start=1)]
    return ranks


@settings(deadline=None, max_examples=25)
@given(rows=ROWS, top_k=st.integers(1, 7))
def test_ranks_follow_rank_then_score_then_id_then_the_file(rows: dict[Any, Any], top_k: int) -> None:
    raw: list[RawPair] = [(*pair, *values) for pair, values in rows.items()]
    tables = list(ranked(batched(raw), top_k=top_k, one_list_each=False, source="here"))
    got = [(row["query_id"], row["doc_id"], row["rank"]) for table in tables for row in table.to_pylist()]
    assert got == expected_ranks(raw, top_k)
