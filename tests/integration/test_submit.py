"""`ray job submit` against a real head: both spellings, from any directory, with its status and logs."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from pipeline.index.verify import verify
from pipeline.storage import open_store
from tests.fixtures.corpus import sample_rows, write_corpus
from tests.fixtures.jobs import ROOT, last_summary, read_live, write_config
from tests.fixtures.lists import read_scores, rerank_config, write_lists
from tests.fixtures.ray_head import RAY_ENV, RayHead, ray_command
from tests.fixtures.s3_server import S3Server
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.ray

AGENT_TIMEOUT_S = 90.0
"""On a loaded machine of two cores the head's agent registers seconds after its dashboard answers."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What a user uploads: the repository's tracked sources, and nothing that was built in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("pipeline", "jobs", "configs"):
        subprocess.run(["cp", "-rp", str(ROOT / name), str(folder)], check=True)
    return folder


def submit(head: RayHead, checkout: Path, cwd: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    """Submit as a user does; a head that has only just started says "try again later" until its agent is up."""
    command = [ray_command(), "job", "submit", "--address", head.dashboard, "--working-dir", str(checkout), "--"]
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        done = subprocess.run(
            [*command, *entrypoint], cwd=cwd, env=os.environ | RAY_ENV, capture_output=True, text=True, timeout=240
        )
        if "No available agent to submit job" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)


def test_both_spellings_from_any_directory(tmp_path: Path, checkout: Path, ray_head: RayHead) -> None:
    config = write_config(
        tmp_path,
        manifest={"path": str(write_corpus(tmp_path / "lake"))},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model())},
    )
    cap = ["--set", "run.max_reject_fraction=0.2"]
    first = submit(ray_head, checkout, tmp_path, "python", "jobs/embed_corpus.py", "--config", str(config), *cap)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"{len(sample_rows())} items: {len(sample_rows())} new" in first.stdout
    assert read_live(str(tmp_path / "out")).num_rows == len(sample_rows()) - 2

    second = submit(ray_head, checkout, Path("/"), "jobs/embed_corpus.py", "--config", str(config), *cap)
    assert second.returncode == 0, second.stdout + second.stderr
    assert last_summary(open_store(str(tmp_path / "out"), {}))["counts"]["encoded"] == 0

    too_many = submit(ray_head, checkout, tmp_path, "jobs/embed_corpus.py", "--config", str(config))
    assert too_many.returncode == 1  # all that `ray job submit` can say; the summary has the code
    assert last_summary(open_store(str(tmp_path / "out"), {}))["exit_code"] == 3


def test_a_relative_output_would_be_lost(tmp_path: Path, checkout: Path, ray_head: RayHead) -> None:
    config = write_config(
        tmp_path,
        manifest={"path": str(write_corpus(tmp_path / "lake"))},
        output={"path": "out"},
        model={"path": str(tiny_model())},
    )
    done = submit(ray_head, checkout, tmp_path, "python", "jobs/embed_corpus.py", "--config", str(config))
    assert done.returncode == 1
    assert "output.path 'out' is relative" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.s3
def test_a_submitted_rerank_job_reads_and_writes_s3(
    tmp_path: Path, checkout: Path, ray_head: RayHead, s3_server: S3Server, s3_bucket: str
) -> None:
    write_lists(tmp_path / "lists", 3, 6, 4)
    place, options = f"{s3_bucket}/{uuid.uuid4().hex}", s3_server.storage_options
    lake = open_store(f"{place}/lake", options)
    for file in (tmp_path / "lists").iterdir():
        lake.put(file.name, file.read_bytes())
    config = rerank_config(
        tmp_path,
        tmp_path / "lists",
        queries={"path": f"{place}/lake/queries.jsonl"},
        documents={"path": f"{place}/lake/documents.jsonl"},
        candidates={"path": f"{place}/lake/lists.parquet"},
        output={"path": f"{place}/out"},
        fetch={"storage_options": options, "schemes": ["s3"]},
    )
    done = submit(ray_head, checkout, Path("/"), "jobs/rerank_candidates.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    out = open_store(f"{place}/out", options)
    scores = read_scores(out)
    assert scores.num_rows == 12
    assert set(scores.column("status").to_pylist()) == {"scored"}
    assert verify(out) == []
    assert out.read(f"scores/run={last_summary(out)['run_id']}/run.trec").count(b"\n") == 12
    assert options["s3"]["secret"] not in done.stdout + str(last_summary(out))

    again = submit(ray_head, checkout, tmp_path, "python", "jobs/rerank_candidates.py", "--config", str(config))
    assert again.returncode == 0, again.stdout + again.stderr
    assert last_summary(out)["counts"]["encoded"] == 0
