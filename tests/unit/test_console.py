"""Commands whose output nobody reads end without a word, and every other broken pipe is an error as before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.console import PIPE_CLOSED
from pipeline.storage import open_store
from tests.fixtures.index_cases import Row, finish_run
from tests.fixtures.jobs import JOB, ROOT

SCRIPT = """
import sys
from pipeline.console import ends_quietly

@ends_quietly
def main():
    {body}
    return 3

sys.exit(main())
"""


def run_unread(arguments: list[str], *, unbuffered: bool = False, stderr: bool = False) -> tuple[int, str]:
    """Run Python with standard output (or error) whose reader has gone; its status, and what the other says."""
    read, write = os.pipe()
    os.close(read)
    out, err = (subprocess.PIPE, write) if stderr else (write, subprocess.PIPE)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        command = [sys.executable, *(["-u"] if unbuffered else []), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=env, timeout=240, stdout=out, stderr=err)
    finally:
        os.close(write)
    return done.returncode, ((done.stdout if stderr else done.stderr) or b"").decode()


@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("body", ["print('x')", "print('x' * 10**6)", "print('x', flush=True)"])
def test_unread_output_ends_quietly(body: str, unbuffered: bool) -> None:
    assert run_unread(["-c", SCRIPT.format(body=body)], unbuffered=unbuffered) == (PIPE_CLOSED, "")


def test_what_was_said_before_leaving_is_flushed_too() -> None:
    assert run_unread(["-c", SCRIPT.format(body="print('x'); sys.exit(5)")]) == (PIPE_CLOSED, "")


def test_unread_errors_end_quietly() -> None:
    body = "print('x', file=sys.stderr, flush=True)"
    assert run_unread(["-c", SCRIPT.format(body=body)], stderr=True) == (PIPE_CLOSED, "")


def test_a_command_that_says_nothing_keeps_its_status() -> None:
    assert run_unread(["-c", SCRIPT.format(body="pass")]) == (3, "")


def test_another_broken_pipe_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body="raise BrokenPipeError('a worker')")],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert "BrokenPipeError: a worker" in done.stderr


def test_printing_a_config() -> None:
    config = str(ROOT / "configs" / "embed.yaml")
    assert run_unread([str(JOB), "--config", config, "--print-config"]) == (PIPE_CLOSED, "")


@pytest.mark.parametrize("command", ["files", "verify"])
def test_asking_an_index(tmp_path: Path, command: str) -> None:
    finish_run(open_store(str(tmp_path)), "r1", {"a": "f1"}, [[Row("a")]])
    assert run_unread(["-m", "pipeline", command, str(tmp_path)]) == (PIPE_CLOSED, "")
