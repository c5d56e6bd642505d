"""How a job ends: its summary is written while stop requests are heeded, and nothing keeps one that was told to go."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import driving
from pipeline.config import Config
from pipeline.driving import drive
from pipeline.errors import ExitCode, IncompleteError
from pipeline.stop import StopRequest, listen_for_stop
from pipeline.storage import Store, open_store
from pipeline.summary import Summary, summary_path, write_summary

Listen = Callable[[], None]


@pytest.fixture(autouse=True)
def unheeded() -> Iterator[list[int]]:
    """Signals that came while nobody listened; they would end the process."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    yield came
    signal.signal(signal.SIGTERM, before)
    assert came == []


def summary_in(folder: Path) -> Summary:
    tree: dict[str, Any] = {"manifest": {"path": "m.parquet"}, "output": {"path": str(folder)}, "model": {"path": "x"}}
    return Summary("run-1", "embed_corpus", Config.model_validate(tree))


def told_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def drained(_summary: Summary, stop: StopRequest, _again: Listen) -> ExitCode:
    with stop.patiently():
        told_to_stop()
    return stop.exit_code


def raising(_summary: Summary, stop: StopRequest, _again: Listen) -> ExitCode:
    with stop.patiently():
        told_to_stop()
    raise IncompleteError("as far as it went")


@pytest.mark.parametrize("body", [drained, raising])
def test_a_store_that_hangs_does_not_keep_a_job_that_was_told_to_stop(
    body: driving.Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, gone = [], threading.Event()

    def leave(status: int) -> None:
        left.append(status)
        gone.set()

    def hanging(store: Store, summary: Summary, exit_code: ExitCode) -> dict[str, Any]:
        told_to_stop()  # some senders say it again
        assert gone.wait(30), "nobody left"
        raise OSError("would hang for ever")

    monkeypatch.setattr(driving, "listen_for_stop", functools.partial(listen_for_stop, leave_s=0.2, leave=leave))
    monkeypatch.setattr(driving, "write_summary", hanging)
    with contextlib.suppress(IncompleteError):
        drive(summary_in(tmp_path), body)
    assert left == [ExitCode.INCOMPLETE]


def test_a_signal_while_the_summary_is_written_changes_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(store: Store, summary: Summary, exit_code: ExitCode) -> dict[str, Any]:
        told_to_stop()
        told_to_stop()
        return write_summary(store, summary, exit_code)

    monkeypatch.setattr(driving, "write_summary", interrupted)
    assert drive(summary_in(tmp_path), lambda *_: ExitCode.COMPLETE) == ExitCode.COMPLETE
    assert b'"exit_code": 0' in open_store(str(tmp_path)).read(summary_path("run-1"))
