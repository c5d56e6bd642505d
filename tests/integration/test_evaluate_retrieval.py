"""The evaluation job as a user runs it: a process, small files, what it writes and says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.trec import run_lines
from tests.fixtures.jobs import ROOT

JOB = ROOT / "jobs" / "evaluate_retrieval.py"
QUERIES = [f"q{i}" for i in range(12)]


def run_job(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(JOB), "--config", "config.yaml", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Judgements, a TREC run without q0, Parquet candidates with every relevant document first, vectors; a config."""
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"{query}\t{query}-good\t1\n" for query in QUERIES)
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    lines = [line for query in QUERIES[1:] for line in run_lines(query, ["bad", f"{query}-good"], [2.0, 1.0], "first")]
    (tmp_path / "first.trec").write_text("\n".join(lines) + "\n")
    best = tmp_path / "reranked" / "scores" / "run=20260101T000000Z-aa"
    best.mkdir(parents=True)
    rows = [(query, f"{query}-good", 1) for query in QUERIES] + [("q99", "bad", 1)]
    pairs: dict[str, Any] = dict(zip(("query_id", "doc_id", "rank"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(pairs), best / "part-1.parquet")
    vectors = np.random.default_rng(0).standard_normal((90, 32)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 32)
    pq.write_table(pa.table({"id": range(90), "vector": column}), tmp_path / "vectors.parquet")
    config = {
        "output": {"path": "out"},
        "qrels": "qrels",
        "runs": {"first": "first.trec", "reranked": "reranked"},
        "measures": ["RR@10", "R@100"],
        "recall": {"index": "vectors.parquet", "k": [5], "sample": 20},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def test_an_evaluation_writes_its_tables_and_says_what_was_missing(lake: Path) -> None:
    done = run_job(lake)
    assert done.returncode == 0, done.stderr
    (folder,) = (lake / "out" / "evaluation").iterdir()
    assert sorted(file.name for file in folder.iterdir()) == [
        "measures.json", "per_query.parquet", "recall.parquet", "recall.svg",
    ]  # fmt: skip
    said = json.loads((folder / "measures.json").read_text())
    assert said["run_id"] == folder.name
    assert (said["judged_queries"], said["baseline"]) == (12, "first")
    first, reranked = said["runs"]["first"], said["runs"]["reranked"]
    assert first["measures"] == {"RR@10": 11 * 0.5 / 12, "R@100": 11 / 12}
    assert (first["judged_queries_without_results"], first["queries_without_judgements"]) == (1, 0)
    assert reranked["measures"] == {"RR@10": 1.0, "R@100": 1.0}
    assert (reranked["judged_queries_without_results"], reranked["queries_without_judgements"]) == (0, 1)
    assert [each["measure"] for each in said["comparisons"]] == ["RR@10", "R@100"]
    assert said["comparisons"][0]["randomisation_p"] < 0.01 < 0.05 < said["comparisons"][1]["t_test_p"]
    assert said["config"]["runs"]["first"] == "first.trec"
    assert pq.read_table(folder / "per_query.parquet").num_rows == 2 * 2 * 12
    recall = pq.read_table(folder / "recall.parquet").to_pylist()
    assert recall == said["recall"]["cells"]
    assert {"dim": 32, "dtype": "float32", "k": 5, "bytes_per_vector": 128}.items() <= recall[0].items()
    assert recall[0]["recall"] == 1.0
    assert "run first: 1 of 12 judged queries have no results and count 0" in done.stderr
    for words in ("12 judged queries", "difference from first", "neighbours kept: 20 queries, 90 items", "0.4583"):
        assert words in done.stdout


def test_what_cannot_be_evaluated_is_exit_2_and_writes_nothing(lake: Path) -> None:
    done = run_job(lake, "--set", "runs.first=nowhere.trec")
    assert done.returncode == 2
    assert "evaluate_retrieval: runs.first: nowhere.trec does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (lake / "out").exists()


def test_the_plan_names_files_and_computes_nothing(lake: Path) -> None:
    done = run_job(lake, "--plan")
    assert done.returncode == 0, done.stderr
    for words in (
        "qrels/test.tsv",
        "first.trec",
        "part-1.parquet",
        "measures: RR@10, R@100",
        "32 binary",
        "baseline: first",
    ):
        assert words in done.stdout
    assert not (lake / "out").exists()
