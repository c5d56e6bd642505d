"""What a run shows: one line every 30 s off a terminal, queues that add up."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.progress import Progress, Status, status_line


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_names_everything() -> None:
    status = Status(total=100, prepared=40, encoded=30, written=20, committed=10, rejects=3, tokens=5000)
    assert status_line(status, 10.0) == (
        "encode: 20/100 items, 2.0 items/s, 500 tokens/s, 3 rejects, ETA 0:00:40, "
        "queue prepare=60 encode=10 write=10 commit=10"
    )


@pytest.mark.parametrize(("written", "eta"), [(0, "unknown"), (100, "0:00:00")])
def test_eta_without_a_rate_or_a_rest(written: int, eta: str) -> None:
    assert f"ETA {eta}" in status_line(Status(total=100, written=written), 10.0)


def test_one_line_every_thirty_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress(stream, clock) as progress:
        for second in range(100):
            clock.now = float(second)
            progress.update(Status(total=100, written=second))
    lines = stream.getvalue().splitlines()
    assert [re.match(r"encode: (\d+)/", line).group(1) for line in lines] == ["30", "60", "90"]  # type: ignore[union-attr]


def test_terminal_shows_a_live_view() -> None:
    stream = Terminal()
    with Progress(stream, Clock()) as progress:
        progress.update(Status(total=7, written=3, phase="merge"))
    assert "3/7" in stream.getvalue()
    assert "merge" in stream.getvalue()


@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5))
def test_queues_are_never_negative(counts: list[int]) -> None:
    total, prepared, encoded, written, committed = counts
    queues = Status(total, prepared, encoded, written, committed).queues
    assert all(items >= 0 for items in queues.values())
    assert list(queues) == ["prepare", "encode", "write", "commit"]
