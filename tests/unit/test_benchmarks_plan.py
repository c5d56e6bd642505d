"""The benchmark of planning plans what it says: its nights change what they should, and its peers find the new ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plan as benchmark
from pipeline import plan


def test_nights_of_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("check_ids", "_write_candidates", "compare"):
        monkeypatch.setattr(plan, name, getattr(plan, name))  # the benchmark times them for good
    # Five interpreters would take longer than all five steps.
    monkeypatch.setattr(benchmark, "_in_child", _in_this_process)
    out = tmp_path / "plan.json"
    document = benchmark.main(["--rows", "1000", "2000", "--content-hash", "--out", str(out)])
    assert json.loads(out.read_text())["sizes"]["2000"] == document["sizes"][2000]
    for rows, steps in document["sizes"].items():
        each = rows // 100
        assert steps["first night"]["counts"]["to_do"] == rows
        counts = steps["second night"]["counts"]
        assert {name: counts[name] for name in ("new", "changed", "carried", "deleted")} == dict.fromkeys(
            ("new", "changed", "carried", "deleted"), each
        )
        assert counts["to_do"] == 2 * each
        assert set(steps["second night"]["phases"]) == {"ids", "rows", "joins"}
        assert (steps["merge"]["counts"]["vectors"], steps["merge"]["counts"]["missing"]) == (rows, 0)
        assert steps["DuckDB, ids only"]["counts"] == steps["Arrow, ids only"]["counts"] == {"new": each}
    assert set(document["exponents"]) == set(benchmark.STEPS)


def _in_this_process(step: str, folder: Path) -> dict[str, Any]:
    found = benchmark._step(step, folder)
    return found | {"peak_bytes": benchmark._tree_bytes(os.getpid()), "cpu_s": found["total_s"]}
