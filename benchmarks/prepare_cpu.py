"""Preparation per core: ours against transformers' processor behind qwen-vl-utils, from local files to model inputs.

    python -m benchmarks.prepare_cpu [--out FILE] [--no-video]

Both sides are single-threaded, on one core, in processes of their own that take turns (A B B A), and are charged CPU
time. Ids (and the clip's pixels) must agree, else there is no figure. Prints the tables; `--out` keeps every
repetition as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.prepare_media import CLIP, make_cells
from tests.fixtures.tokenizer import build_tokenizer

LIBRARIES = ("numpy", "pillow", "simplejpeg", "cykooz-resizer", "av", "tokenizers", "torch", "transformers")
TURNS = ("ours", "stock", "stock", "ours")
LONG_S = 2.0
"""A cell whose turn takes longer gets one round instead of two."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Side:
    """A running `prepare_side`."""

    def __init__(self, name: str, folder: Path, tokenizer: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.prepare_side", name, str(folder), str(tokenizer)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
        )
        self.cells: list[str] = self._answer()

    def run(self, cell: str) -> dict[str, Any]:
        """One turn of `cell`: {cpu_s and bytes an item, digest}."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(cell) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = self._answer()
        return answer

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:  # noqa: ANN401 - JSON
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(("{", "[")):  # libraries print too
                return json.loads(line)
        raise SystemExit("a side of the benchmark died; its message is above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--no-video", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakevec-bench-") as name:
        folder = Path(name)
        build_tokenizer(folder / "tokenizer")
        cells = make_cells(folder, video=not options.no_video)
        (folder / "cells.pickle").write_bytes(pickle.dumps(cells))
        sides = {side: Side(side, folder, folder / "tokenizer") for side in ("ours", "fast", "stock")}
        try:
            rows = [_compare(sides, cell) for cell in sides["stock"].cells]
            steps = [_step(sides["ours"], step) for step in sides["ours"].cells if step not in sides["stock"].cells]
        finally:
            for side in sides.values():
                side.close()
    machine = {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(),
        "libraries": {library: version(library) for library in LIBRARIES},
    }  # fmt: skip
    _show(rows, steps)
    if options.out:
        options.out.write_text(json.dumps({"machine": machine, "cells": rows, "steps": steps}, indent=1) + "\n")


def _compare(sides: dict[str, Side], cell: str) -> dict[str, Any]:
    for side in ("ours", "stock"):
        if CLIP not in cell:
            sides[side].run(cell)  # the first turn fills caches and pages
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "stock": [], "fast": []}
    for _ in range(2):
        for side in TURNS:
            runs[side].append(sides[side].run(cell))
        if max(run["cpu_s"] for run in runs["stock"]) > LONG_S:
            break
    if cell.startswith(("JPEG", "PNG", "64")):
        runs["fast"] = [sides["fast"].run(cell) for _ in range(3)]
    digests = {run["digest"] for each in runs.values() for run in each}
    if len(digests) > 1:
        raise SystemExit(f"{cell}: the two sides prepare different things: {runs}")
    print(f"{cell}: done", file=sys.stderr)
    return {"cell": cell, "runs": runs}


def _step(side: Side, step: str) -> dict[str, Any]:
    return {"step": step, "cpu_s": [side.run(step)["cpu_s"] for _ in range(3)]}


def _median(runs: list[dict[str, Any]], key: str) -> float:
    return statistics.median(run[key] for run in runs) if runs else float("nan")


def _show(rows: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    print(f"| {'an item':28} | stock ms | ours ms | ratio | fast ms | ratio | stock bytes | our bytes |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        ours, stock, fast = (_median(row["runs"][side], "cpu_s") * 1e3 for side in ("ours", "stock", "fast"))
        sizes = [_median(row["runs"][side], "bytes") for side in ("stock", "ours")]
        quick = f"{fast:.2f} | {stock / fast:.2f}×" if fast == fast else "– | –"
        print(
            f"| {row['cell']:28} | {stock:.2f} | {ours:.2f} | {stock / ours:.2f}× | {quick}"
            f" | {sizes[0]:,.0f} | {sizes[1]:,.0f} |"
        )
    print(f"\n| {'a step of ours':36} | ms |\n|---|---|")
    for step in steps:
        print(f"| {step['step']:36} | {statistics.median(step['cpu_s']) * 1e3:.3f} |")


if __name__ == "__main__":
    main()
