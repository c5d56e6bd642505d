"""The benchmark of fetching fetches what it says, on every side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import fetch as benchmark


@pytest.mark.slow
@pytest.mark.s3
def test_all_sides_of_the_benchmark_fetch_everything(tmp_path: Path) -> None:
    out = tmp_path / "fetch.json"
    document = benchmark.main(
        ["--objects", "30", "--kilobytes", "1", "--rounds", "1", "--delay-ms", "5", "--out", str(out)]
    )
    found = document["delays"][5]
    assert json.loads(out.read_text())["delays"]["5.0"] == found
    assert {"fetcher", "threads", "s3fs", "fetcher over threads"} == set(found)
    # Thirty answers that each wait 5 ms, at most 32 at once.
    assert all(0 < found[side]["objects_s"] < 30 / 0.005 for side in ("fetcher", "threads", "s3fs"))
