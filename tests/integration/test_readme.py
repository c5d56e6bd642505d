"""The README's blocks run as they stand, over what its demo makes; its paths and commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.storage import open_store
from tests.fixtures.corpus import JUDGED, sample_rows, write_corpus, write_queries
from tests.fixtures.jobs import ROOT
from tests.fixtures.lists import read_scores
from tests.fixtures.ray_head import RAY_ENV, RayHead
from tests.fixtures.tiny_model import build_tiny_model

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- (\w+): this block is run by .*? -->\n```\w+\n(.*?)```", README, re.S))
SEARCH = BLOCKS["search"].splitlines()

# Where the session's Ray is, and half a CPU each: several jobs find room on it.
ON_THE_HEAD = {
    "jobs/embed_corpus.py": ["resources.cpus_per_encoder=0.5"],
    "jobs/retrieve_candidates.py": ["resources.cpus_per_scan=0.5"],
    "jobs/rerank_candidates.py": ["resources.cpus_per_encoder=0.5"],
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Path:
    """A folder in which `make demo` has run, on the session's Ray."""
    folder = tmp_path_factory.mktemp("readme")
    build_tiny_model(folder / ".demo" / "model")
    build_tiny_model(folder / ".demo" / "reranker", reranker=True)
    write_corpus(folder / ".demo" / "lake")
    write_queries(folder / ".demo" / "lake")
    for name in ("jobs", "configs"):
        (folder / name).symlink_to(ROOT / name)
    run_line(SEARCH[0], folder, ray_head)
    return folder


def run_line(line: str, folder: Path, head: RayHead) -> str:
    """What a line of the README, run in `folder` as it stands but for the place of Ray, prints."""
    words = shlex.split(line, comments=True)
    sets = ON_THE_HEAD.get(words[1])
    for each in [f"resources.address={head.address}", *sets] if sets else []:
        words += ["--set", each]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=folder, env=os.environ | RAY_ENV | {"PATH": path, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_block(name: str, folder: Path) -> str:
    script = folder / f"{name}.py"
    script.write_text(BLOCKS[name])
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.ray
def test_reading_the_vectors(demo: Path) -> None:
    out = run_block("read", demo)
    assert "modality" in out
    assert f"({len(sample_rows()) - 2}, 32)" in out


@pytest.mark.ray
def test_the_library(demo: Path) -> None:
    assert "(3, 32) float32" in run_block("embed", demo)
    assert re.search(r"^\[\S+ \S+\]$", run_block("rerank", demo), re.M)


@pytest.mark.ray
def test_search_in_five_commands(demo: Path, ray_head: RayHead) -> None:
    assert len(SEARCH) == 6
    *_, evaluated, searched = [run_line(line, demo, ray_head) for line in SEARCH[1:]]

    scores = read_scores(open_store(str(demo / ".demo" / "reranked")))
    assert set(scores.column("query_id").to_pylist()) == set(JUDGED)
    assert scores.num_rows == len(JUDGED) * 10
    # The two items that are broken on purpose have no vector, so no list names them.
    assert set(scores.column("status").to_pylist()) == {"scored"}

    (document,) = (demo / ".demo" / "evaluation").glob("evaluation/*/measures.json")
    runs = json.loads(document.read_text())["runs"]
    measured = re.findall(r"^(\S+) \{nDCG@10: ([\d.]+)\}$", run_block("measure", demo), re.M)
    assert [name for name, _ in measured] == ["candidates/candidates", "reranked/scores"]
    for name, (_, value) in zip(("retrieved", "reranked"), measured, strict=True):
        assert runs[name]["measures"]["nDCG@10"] == pytest.approx(float(value), abs=1e-6)
        assert f"{float(value):.4f}" in evaluated
    assert len(re.findall(r"^│ \d", searched, re.M)) == 5


@pytest.mark.ray
def test_what_the_demo_shows(demo: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "tests.demo", "show"], cwd=demo, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for word in ("complete", "broken-image", "IMAGE_UNREADABLE", "UNSUPPORTED_FORMAT", "image-beach-again", "summary"):
        assert word in shown


def test_files_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:docs|configs|jobs|pipeline|tests)/[\w./]+)`", README))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_commands_it_names_are_there() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"(?:^|`)lakevec (\w+) (?:/|[A-Z]+\b|photos|\.demo)", README, re.M))
    assert commands >= {"doctor", "files", "verify", "search"}
    assert all(command in helped for command in commands)
    targets = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in targets for target in re.findall(r"^make ([\w-]+)", README, re.M))
