"""The README's Python blocks run, over what its demo makes; its paths and commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.corpus import sample_rows, write_corpus
from tests.fixtures.jobs import ROOT, run_job
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import build_tiny_model

README = (ROOT / "README.md").read_text()
BLOCKS = dict(re.findall(r"<!-- (\w+): this block is run by .*? -->\n```python\n(.*?)```", README, re.S))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Path:
    """A folder in which `make demo` has run, on the session's Ray."""
    folder = tmp_path_factory.mktemp("readme")
    build_tiny_model(folder / ".demo" / "model")
    write_corpus(folder / ".demo" / "lake")
    done = run_job(
        ROOT / "configs" / "demo.yaml",
        "--set", f"resources.address={ray_head.address}", "--set", "resources.cpus_per_encoder=0.5",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return folder


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
    commands = set(re.findall(r"(?:^|`)lakevec (\w+) (?:/|[A-Z]+\b|photos)", README, re.M))
    assert commands >= {"doctor", "files", "verify"}
    assert all(command in helped for command in commands)
    targets = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in targets for target in re.findall(r"^make ([\w-]+)", README, re.M))
