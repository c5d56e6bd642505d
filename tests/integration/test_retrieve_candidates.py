"""The whole retrieval job: candidate files over several index files, by Ray tasks, equal to one process's answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import VectorSpec
from pipeline.config_files import load_config
from pipeline.retrieval.candidate_files import candidates_of
from pipeline.retrieval.scan import cut_pieces
from pipeline.retrieval.settle import open_retrieval
from pipeline.retrieve_config import RetrieveConfig
from pipeline.storage import Store, open_store
from tests.fixtures.jobs import ROOT, last_summary, run_job
from tests.fixtures.ray_head import RayHead
from tests.fixtures.vector_index import unit_vectors, write_index

pytestmark = pytest.mark.ray

JOB = ROOT / "jobs" / "retrieve_candidates.py"
SPECS = (VectorSpec(name="vector", dtype="int8"), VectorSpec(name="bits", dtype="binary"))
N, DIM = 400, 64


@dataclass(frozen=True)
class Lake:
    """An index of documents that are also the queries, and a config that searches it."""

    config: Path
    store: Store


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Lake:
    folder = tmp_path_factory.mktemp("retrieve")
    year = pa.array([2000 + number % 30 for number in range(N)])
    store = open_store(str(folder / "index"))
    write_index(
        store, list(range(N)), unit_vectors(N, DIM), SPECS, carry={"year": year}, cuts=[150, 151], group_rows=50
    )
    tree = {
        "queries": {"path": str(folder / "index")},
        "corpus": {"path": str(folder / "index"), "vector": "bits"},
        "output": {"path": str(folder / "out")},
        "k": 10,
        "filter": "year >= 2010",
        "rescore": {"column": "vector", "oversample": 3},
        "exclude_self": True,
        "resources": {"address": ray_head.address, "cpus_per_scan": 0.5},
    }
    config = folder / "retrieve.yaml"
    config.write_text(yaml.safe_dump(tree))
    return Lake(config, open_store(str(folder / "out")))


def serially(function: Callable[[Any], pa.Table], arguments: Sequence[Any]) -> Iterator[pa.Table]:
    return map(function, arguments)


def in_one_process(config: Path) -> list[dict[str, Any]]:
    retrieval, queries = open_retrieval(load_config(str(config), [], RetrieveConfig))
    pieces = cut_pieces(retrieval.corpus.files, 1)
    found = [candidates_of(retrieval.answer(ids, vectors, pieces, serially), ids) for ids, vectors in queries.blocks(N)]
    return list(pa.concat_tables(found).to_pylist())


def test_the_job_writes_what_one_process_finds(lake: Lake) -> None:
    done = run_job(lake.config, job=JOB)
    assert done.returncode == 0, done.stdout
    summary = last_summary(lake.store)
    assert summary["exit_code"] == 0
    assert summary["counts"] == {"queries": N, "documents": N, "candidates": N * 10}
    folder = f"candidates/run={summary['run_id']}"
    parts = [file.path for file in lake.store.list(folder) if file.path.endswith(".parquet")]
    rows = pa.concat_tables(pq.ParquetFile(lake.store.open_input(path)).read() for path in parts).to_pylist()
    assert rows == in_one_process(lake.config)
    assert all(row["query_id"] != row["doc_id"] and row["doc_id"] % 30 >= 10 for row in rows)
    words = [line.split() for line in lake.store.read(f"{folder}/run.trec").decode().splitlines()]
    assert [(int(q), int(d), int(r)) for q, _, d, r, _, _ in words] == [
        (row["query_id"], row["doc_id"], row["rank"]) for row in rows
    ]


def test_what_would_be_done_is_said_without_ray(lake: Lake) -> None:
    done = run_job(lake.config, "--plan", job=JOB, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0, done.stdout
    assert f"{N} queries × {N} documents in 3 files" in done.stdout
    assert "the best 31 of each query, ranked again by vector (int8, dim 64), of which 10 are kept" in done.stdout
    wrong = run_job(lake.config, "--set", "corpus.vectr=bits", job=JOB)
    assert wrong.returncode == 2
    assert "unknown key corpus.vectr; did you mean vector?" in wrong.stdout
