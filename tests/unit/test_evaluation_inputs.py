"""Runs and judgements in every format, from files, folders and outputs of jobs, locally and on S3."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, LakevecError, ManifestError
from pipeline.evaluation.judgements import read_judgements
from pipeline.evaluation.rankings import Ranking, read_ranking
from pipeline.evaluation.sources import find_source
from pipeline.storage import Store

OLD, NEW = "run=20260101T000000Z-bb", "run=20260201T000000Z-aa"


def write_parquet(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def write_text(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def ranked(path: str) -> dict[str, list[str]]:
    ranking = read_ranking(path, {}, key="runs.a")
    return {query: ranking.documents(place) for place, query in enumerate(ranking.queries)}


def pairs(queries: Sequence[Any], docs: Sequence[Any], **columns: Any) -> dict[str, Any]:
    return {"query_id": queries, "doc_id": docs, **columns}


@pytest.mark.parametrize("name", ["run.trec", "run.txt.gz"])
def test_a_trec_run_is_sorted_by_float32_score_then_id_and_not_by_its_rank(tmp_path: Path, name: str) -> None:
    lines = ["q2 Q0 a 1 1 t", "q1 Q0 a 1 0.50000000001 t", "q1\tQ0\tc 2 0.5 t", "", "q1 Q0 b 3 2.5e1 t"]
    assert ranked(write_text(tmp_path / name, *lines)) == {"q1": ["b", "c", "a"], "q2": ["a"]}


def test_rank_goes_before_logit_and_logit_before_score(tmp_path: Path) -> None:
    ids = {"query_id": [7, 7, 7], "doc_id": pa.array(["a", "b", "c"]).dictionary_encode()}
    score = {"score": [1.0, 1.0, 0.9]}
    logit = {"logit": pa.array([20.0, 30.0, 5.0], pa.float32())}
    assert ranked(write_parquet(tmp_path / "1.parquet", **ids, **score)) == {"7": ["b", "a", "c"]}
    assert ranked(write_parquet(tmp_path / "2.parquet", **ids, **score, **logit)) == {"7": ["b", "a", "c"]}
    unscored = {"rank": [3, 1, 2], "logit": pa.array([None, 30.0, 5.0], pa.float32())}
    assert ranked(write_parquet(tmp_path / "3.parquet", **ids, **score, **unscored)) == {"7": ["b", "c", "a"]}


def test_an_output_means_its_newest_run_and_scores_before_candidates(tmp_path: Path) -> None:
    write_parquet(tmp_path / "candidates" / NEW / "part-1.parquet", **pairs(["q"], ["first"], score=[1.0]))
    write_text(tmp_path / "candidates" / NEW / "run.trec", "q Q0 text 1 1 t")
    assert ranked(str(tmp_path)) == {"q": ["first"]}
    write_parquet(tmp_path / "scores" / OLD / "part-1.parquet", **pairs(["q"], ["old"], rank=[1]))
    write_parquet(tmp_path / "scores" / NEW / "part-1.parquet", **pairs(["q"], ["b"], rank=[2]))
    write_parquet(tmp_path / "scores" / NEW / "part-2.parquet", **pairs(["q"], ["a"], rank=[1]))
    write_parquet(tmp_path / "scores" / NEW / "_work.parquet", nothing=[1])
    for path in (tmp_path, tmp_path / "scores", tmp_path / "scores" / NEW):
        assert ranked(str(path)) == {"q": ["a", "b"]}
    assert ranked(str(tmp_path / "candidates")) == {"q": ["first"]}


def test_of_candidates_the_newest_complete_run_counts(tmp_path: Path) -> None:
    write_parquet(tmp_path / "candidates" / NEW / "part-1.parquet", **pairs(["q"], ["stopped"], rank=[1]))
    with pytest.raises(ManifestError, match="none of its 1 runs ended"):
        ranked(str(tmp_path))
    write_parquet(tmp_path / "candidates" / OLD / "part-1.parquet", **pairs(["q"], ["whole"], rank=[1]))
    write_text(tmp_path / "candidates" / OLD / "run.trec", "q Q0 whole 1 1 t")
    assert ranked(str(tmp_path)) == {"q": ["whole"]}


def test_s3_and_local_stores_are_read_alike(store: Store) -> None:
    store.put(f"scores/{NEW}/run.trec", b"q Q0 d 1 1.5 t\n")
    store.put("qrels/test.tsv", b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\nq\td\t1\n")
    options = {"s3": dict(store.fs.storage_options)} if not store.is_local else {}
    ranking = read_ranking(store.root, options, key="runs.a")
    assert (ranking.queries, ranking.documents(0), ranking.pairs) == (("q",), ["d"], 1)
    assert read_judgements(store.root, options) == {"q": {"d": 1}}
    assert read_judgements(f"{store.root}/qrels/test.tsv", options) == {"q": {"d": 1}}
    with pytest.raises(ConfigError, match="does not exist or holds no files"):
        find_source(f"{store.root}/nowhere", options, key="qrels")


def test_an_empty_run_has_no_queries(tmp_path: Path) -> None:
    assert read_ranking(write_text(tmp_path / "run.trec"), {}, key="runs.a").queries == ()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (pairs(["q", "q"], ["a", "a"], rank=[1, 2]), ["runs.a", "'q'", "'a'", "2 times"]),
        (pairs(["q"], ["a"], score=[float("nan")]), ["score", "nulls or NaN"]),
        (pairs(["q"], ["a"], rank=pa.nulls(1, pa.int32())), ["rank", "nulls or NaN"]),
        (pairs(["q"], pa.nulls(1, pa.string()), rank=[1]), ["doc_id", "null"]),
        (pairs([1.5], ["a"], rank=[1]), ["query_id", "strings or integers", "double"]),
        (pairs(["q"], ["a"], relevance=[1]), ["rank or logit or score", "found query_id, doc_id, relevance"]),
    ],
)
def test_what_is_no_run_is_refused_with_the_place(tmp_path: Path, columns: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        ranked(write_parquet(tmp_path / "run.parquet", **columns))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "run.parquet").write_bytes(b"no Parquet")
    (tmp_path / "run.trec").write_bytes(b"\xff\xfe q")
    for name in ("run.parquet", "run.trec"):
        with pytest.raises(ManifestError, match=f"runs.a: .*{name} cannot be read"):
            ranked(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"runs.a: .*nowhere does not exist"):
        ranked(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="credentials"):
        ranked("s3://user:secret@bucket/run.trec")


def judged(path: str) -> dict[str, dict[str, int]]:
    return read_judgements(path, {})


def test_judgements_in_every_format(tmp_path: Path) -> None:
    expected = {"1": {"a": 2, "b": 0}, "2": {"a": 1}}
    trec = write_text(tmp_path / "qrels.txt", "1 0 a 2", "1 0 b 0", "2 0 a 1")
    beir = write_text(tmp_path / "x.tsv", "query-id\tcorpus-id\tscore", "1\ta\t2", "1\tb\t0", "2\ta\t1")
    ids = {"query-id": [1, 1, 2], "corpus-id": ["a", "b", "a"]}
    whole = write_parquet(tmp_path / "1.parquet", **ids, score=[2, 0, 1])
    floats = write_parquet(tmp_path / "2.parquet", **ids, score=[2.0, 0.0, 1.0])
    assert [judged(path) for path in (trec, beir, whole, floats)] == [expected] * 4


def test_a_beir_folder_means_its_test_split(tmp_path: Path) -> None:
    header = "query-id\tcorpus-id\tscore"
    write_text(tmp_path / "corpus.jsonl", "{}")
    write_text(tmp_path / "qrels" / "train.tsv", header, "q\tother\t1")
    assert judged(str(tmp_path)) == {"q": {"other": 1}}
    write_text(tmp_path / "qrels" / "dev.tsv", header, "q\tanother\t1")
    with pytest.raises(ConfigError, match=r"several splits.*dev.tsv.*train.tsv.*name one"):
        judged(str(tmp_path))
    write_text(tmp_path / "qrels" / "test.tsv", header, "q\td\t1")
    assert judged(str(tmp_path)) == judged(str(tmp_path / "qrels")) == {"q": {"d": 1}}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["q 0 d 1", "q 0 d 1"], ["'q'", "'d'", "judged twice"]),
        ([], ["no judgement"]),
        (["q 0 d 1.5"], ["line 1", "whole number"]),
    ],
)
def test_what_are_no_judgements_is_refused(tmp_path: Path, lines: list[str], words: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        judged(write_text(tmp_path / "qrels.txt", *lines))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("grades", [[0.5], pa.nulls(1, pa.int64()), [float("nan")], ["1x"]])
def test_relevance_in_parquet_is_whole(tmp_path: Path, grades: Any) -> None:
    with pytest.raises(LakevecError, match=r"column relevance has a relevance that is no whole number"):
        judged(write_parquet(tmp_path / "q.parquet", **pairs(["q"], ["d"], relevance=grades)))


def test_a_ranking_holds_documents_by_query() -> None:
    ranking = Ranking(("a", "b"), pa.array([0, 2, 3]).to_numpy(), pa.chunked_array([["x", "y"], ["z"]]))
    assert [ranking.documents(place) for place in (0, 1)] == [["x", "y"], ["z"]]
