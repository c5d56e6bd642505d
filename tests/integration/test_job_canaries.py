"""No secret leaves the jobs that rerank, retrieve and evaluate, in whatever way they fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.config import VectorSpec
from pipeline.redaction import HIDDEN
from pipeline.storage import open_store
from tests.fixtures.canaries import DRIVER, OPTIONS, SIGNATURE, URIS, armed, assert_nothing_leaked
from tests.fixtures.jobs import JOB, ROOT, run_job, write_config
from tests.fixtures.lists import RERANK_JOB, read_scores, rerank_config, write_lists
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model
from tests.fixtures.vector_index import unit_vectors, write_index

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RETRIEVE_JOB, EVALUATE_JOB = ROOT / "jobs" / "retrieve_candidates.py", ROOT / "jobs" / "evaluate_retrieval.py"
FETCH: dict[str, Any] = {"schemes": ["file", "s3", "leaky"], "storage_options": OPTIONS, "timeout_s": 3, "retries": 0}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A head of the module's own: its workers have the environment's secrets and the drivers that tell them."""
    folder = tmp_path_factory.mktemp("armed")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(DRIVER)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in armed(folder).items():
            patch.setenv(name, value)
        with RayHead() as own:
            yield own


def assert_fails_in_silence(
    folder: Path, head: RayHead, config: Path, job: Path, overrides: list[str], code: int
) -> None:
    """The job ends with `code` and says why, and nothing that it leaves holds a canary."""
    done = run_job(config, *(part for each in overrides for part in ("--set", each)), job=job, timeout_s=600)
    assert done.returncode == code, done.stdout
    assert done.stdout
    (folder / "out").mkdir(exist_ok=True)  # where nothing could be written
    assert_nothing_leaked(folder, done.stdout, head)


def rerank_planted(folder: Path, head: RayHead) -> Path:
    """A rerank config full of canaries, over documents of which most have media that tell more of them."""
    write_lists(folder / "lists", 2, 4, 3)
    documents = [{"id": name, "image": uri} for name, uri in URIS.items()] + [{"id": "d0", "text": "a river"}]
    (folder / "lists" / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    pairs = [{"query_id": f"q{n % 2}", "doc_id": row["id"], "score": float(n)} for n, row in enumerate(documents)]
    pq.write_table(pa.Table.from_pylist(pairs), folder / "lists" / "lists.parquet")
    return rerank_config(
        folder,
        folder / "lists",
        fetch=FETCH,
        resources={"address": head.address},
        inputs={"identity": "trust"},
        run={"max_reject_fraction": 0},
    )


def test_a_rerank_job_of_media_that_tell_secrets(tmp_path: Path, head: RayHead) -> None:
    config = rerank_planted(tmp_path, head)
    assert_fails_in_silence(tmp_path, head, config, RERANK_JOB, [], 3)
    details = {row["doc_id"]: row["detail"] for row in read_scores(open_store(str(tmp_path / "out"))).to_pylist()}
    assert {name for name, detail in details.items() if detail} == set(URIS)
    assert HIDDEN in details["leaky"], "the driver did tell its token"


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("output.path=leaky://lake/out", 2),
        ("output.path=s3://lake/out", 2),
        ("output.path=turning://{folder}/out", 3),
        ("candidates.path=leaky://lake/lists.parquet", 2),
        ("queries.path=leaky://lake/queries.jsonl", 2),
        (f"documents.path=https://lake.example/d.jsonl?X-Amz-Signature={SIGNATURE.value}", 2),
        ("model.path=leaky://lake/model", 2),
    ],
)
def test_a_rerank_job_whose_files_tell_secrets(override: str, code: int, tmp_path: Path, head: RayHead) -> None:
    config = rerank_planted(tmp_path, head)
    assert_fails_in_silence(tmp_path, head, config, RERANK_JOB, [override.format(folder=tmp_path)], code)


def test_an_embed_job_whose_output_fails_its_workers(tmp_path: Path, head: RayHead) -> None:
    (tmp_path / "lake").mkdir()
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["a river", "a mill"]}), tmp_path / "lake" / "m.parquet")
    config = write_config(
        tmp_path,
        manifest={"path": str(tmp_path / "lake" / "m.parquet")},
        output={"path": f"turning://{tmp_path}/out"},
        model={"path": str(tiny_model())},
        fetch=FETCH,
        resources={"address": head.address},
    )
    assert_fails_in_silence(tmp_path, head, config, JOB, [], 3)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("corpus.path=leaky://lake/index", 2),
        ("corpus.path=s3://lake/index", 2),
        ("corpus.path=turning://{folder}/index", 1),
        ("queries.path=leaky://lake/index", 2),
        ("output.path=leaky://lake/out", 2),
        ("output.path=s3://reader:c4naryPassw0rd@lake/out", 2),
    ],
)
def test_a_retrieve_job_whose_files_tell_secrets(override: str, code: int, tmp_path: Path, head: RayHead) -> None:
    index = str(tmp_path / "index")
    write_index(open_store(index), list(range(20)), unit_vectors(20, 16), (VectorSpec(name="vector", dtype="int8"),))
    tree = {
        "queries": {"path": index},
        "corpus": {"path": index},
        "output": {"path": str(tmp_path / "out")},
        "k": 3,
        "fetch": {"storage_options": OPTIONS},
        "resources": {"address": head.address, "cpus_per_scan": 0.5},
    }
    (tmp_path / "retrieve.yaml").write_text(yaml.safe_dump(tree))
    overrides = [override.format(folder=tmp_path)]
    assert_fails_in_silence(tmp_path, head, tmp_path / "retrieve.yaml", RETRIEVE_JOB, overrides, code)


@pytest.mark.parametrize(
    "override",
    [
        "qrels=leaky://lake/qrels",
        "runs.first=leaky://lake/first.trec",
        "runs.first=s3://lake/first.trec",
        "recall.index=leaky://lake/index",
        "output.path=leaky://lake/out",
    ],
)
def test_an_evaluation_whose_files_tell_secrets(override: str, tmp_path: Path, head: RayHead) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (tmp_path / "first.trec").write_text("q1 Q0 d1 1 1.0 first\n")
    tree = {
        "output": {"path": str(tmp_path / "out")},
        "qrels": str(tmp_path / "qrels.tsv"),
        "runs": {"first": str(tmp_path / "first.trec")},
        "fetch": FETCH,
    }
    (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(tree))
    assert_fails_in_silence(tmp_path, head, tmp_path / "evaluate.yaml", EVALUATE_JOB, [override], 2)
