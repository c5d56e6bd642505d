"""Arms against each other on one set of items: interleaved there and back, medians, every vector compared."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from benchmarks.encode_arms import Arm, Vectors
from pipeline.types import Prepared

__all__ = ["compare", "interleaved", "machine", "print_rows", "write_json"]

WARM_ITEMS = 4
"""Enough to touch every weight once."""


def compare(
    arms: Sequence[Arm], items: Sequence[Prepared], *, rounds: int, wait: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Seconds of each arm on `items`: after a warm-up there and back (ABBA) `rounds` times.

    The first arm is ours: `speedup` is each arm's median over ours; `max_abs` and `cosine` compare its unit vectors
    with ours, the worst of all items; `apart` is how far our vectors of neighbouring items differ at least, for a
    comparison of vectors that are all alike would say nothing. Items in and vectors out must count the same.
    """
    seconds, made = interleaved(arms, items, rounds=rounds, wait=wait)
    vectors = {name: _checked(name, each, len(items)) for name, each in made.items()}
    ours, medians = vectors[arms[0].name], {name: median(each) for name, each in seconds.items()}
    return {
        "items": len(items),
        "tokens": sum(item.n_tokens for item in items),
        "visual_tokens": sum(item.n_visual_tokens for item in items),
        "apart": float(np.abs(ours[1:] - ours[:-1]).max(1).min()) if len(items) > 1 else None,
        "arms": {
            arm.name: {
                "seconds": seconds[arm.name],
                "median_s": medians[arm.name],
                "items_s": len(items) / medians[arm.name],
                "tokens_s": sum(item.n_tokens for item in items) / medians[arm.name],
                "speedup": medians[arm.name] / medians[arms[0].name],
                "max_abs": float(np.abs(vectors[arm.name] - ours).max()),
                "cosine": float((vectors[arm.name] * ours).sum(1).min()),
            }
            for arm in arms
        },
    }


def interleaved(
    arms: Sequence[Any], items: Sequence[Any], *, rounds: int, wait: Callable[[], None]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every run of each arm on `items`, after a warm-up there and back `rounds` times, and what each made
    last."""
    for arm in arms:
        arm.run(items[:WARM_ITEMS])
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    made: dict[str, Any] = {}
    for arm in [arm for _ in range(rounds) for arm in (*arms, *reversed(arms))]:
        wait()
        started = time.perf_counter()
        made[arm.name] = arm.run(items)
        wait()
        seconds[arm.name].append(time.perf_counter() - started)
    return seconds, made


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "gpu": gpu, "torch": torch.__version__, "transformers": transformers.__version__,
        "python": platform.python_version(), "load_1min": os.getloadavg()[0],
    }  # fmt: skip


def print_rows(name: str, cell: dict[str, Any]) -> None:
    """One line an arm."""
    for arm, row in cell["arms"].items():
        print(
            f"{name:<14} {arm:<26} {row['median_s']:8.3f} s {row['items_s']:10.2f} items/s"
            f" {row['tokens_s']:10.0f} tokens/s"
            f"   ours is {row['speedup']:5.2f}×   max|Δ| {row['max_abs']:.1e}  cos {row['cosine']:.6f}",
            flush=True,
        )


def write_json(path: str | None, document: dict[str, Any]) -> None:
    """Write what there is so far: a run cut short still says something."""
    if path:
        Path(path).write_text(json.dumps(document, indent=2))


def _checked(name: str, vectors: Vectors, n_items: int) -> Vectors:
    assert len(vectors) == n_items, f"{name}: {n_items} items in, {len(vectors)} out"
    assert np.isfinite(vectors).all(), f"{name}: a vector is not finite"
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
