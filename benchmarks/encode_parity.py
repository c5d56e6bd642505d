"""How far each arm's 16-bit vectors are from the same weights in float32, on items of every length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.encode_arms import Arm, Stock, Vectors
from pipeline.types import Prepared

__all__ = ["of_every_length", "parity"]

LENGTHS, PICTURES = 16, 2
"""Enough for a typical and a worst cosine, and few enough for the float32 forwards, which go one item at a time."""


def parity(arms: Sequence[Arm], model: Any, items: Sequence[Prepared]) -> dict[str, Any]:  # noqa: ANN401 - a stock model
    """Cosines of each arm's vectors with the stock forward in float32, on some items: typical (median) and worst.

    An item whose float32 forward finds no memory is not compared; `longest_tokens` is the longest that was.
    """
    some = of_every_length(items)
    vectors = {arm.name: arm.run(some) for arm in arms}
    exact = _in_float32(model, some)
    kept = np.isfinite(exact).all(1)
    lengths = [item.n_tokens for item, here in zip(some, kept, strict=True) if here]
    found: dict[str, Any] = {"items": len(lengths), "longest_tokens": max(lengths, default=0), "arms": {}}
    print(
        f"parity with float32 on {len(lengths)} of {len(some)} items, the longest of {found['longest_tokens']} tokens"
    )
    for name, each in vectors.items() if lengths else ():
        cosines = _cosines(each[kept], exact[kept])
        found["arms"][name] = row = {"median": float(np.median(cosines)), "worst": float(cosines.min())}
        print(f"parity with float32  {name:<24} median {row['median']:.6f}  worst {row['worst']:.6f}", flush=True)
    return found


def of_every_length(items: Sequence[Prepared]) -> list[Prepared]:
    """Of `items` the shortest, the longest, and the nearest to even ratios between; and two with pictures at least."""
    by_length = sorted(items, key=lambda item: item.n_tokens)
    lengths = np.array([item.n_tokens for item in by_length])
    wanted = np.geomspace(lengths[0], lengths[-1], LENGTHS)
    chosen = dict.fromkeys(int(np.abs(lengths - length).argmin()) for length in wanted)
    pictured = [index for index, item in enumerate(by_length) if item.visuals]
    return [by_length[index] for index in sorted(chosen | dict.fromkeys(pictured[:PICTURES]))]


def _cosines(vectors: Vectors, exact: Vectors) -> Vectors:
    found: Vectors = (vectors * exact).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(exact, axis=1)
    return found


def _in_float32(model: Any, items: Sequence[Prepared]) -> Vectors:  # noqa: ANN401 - a stock model
    """The stock vectors of `items` by `model` in float32, NaN without memory; then the model is again what it was."""
    dtype = next(model.parameters()).dtype
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    exact = np.full((len(items), model.config.text_config.hidden_size), np.nan, np.float32)
    try:
        alone = Stock(model.float(), 1)
        for index, item in enumerate(items):
            exact[index] = _without_memory_nan(alone, item)
    except torch.OutOfMemoryError:
        print("parity: no memory for the weights in float32")
    model.to(dtype)  # values that were 16 bits come back as they were
    for name, buffer in buffers.items():
        # The frequencies of the rotations were float32 all along, and would be rounded.
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    return exact


def _without_memory_nan(arm: Arm, item: Prepared) -> Vectors | float:
    try:
        return arm.run([item])[0]
    except torch.OutOfMemoryError:
        return np.nan
