"""Reranking: ours against the official loop of one pair a forward, and against ours without sharing the query.

    python -m benchmarks.rerank --loop-pairs 10 --out rerank_cpu.json
    python -m benchmarks.rerank --device cuda --model 2b --out rerank_2b.json

On a CPU the widths of 2B with one layer of either tower, on a GPU whole models. One query of text or of a picture
with `--documents` texts or pictures each; random weights, all arms share them. Needs torch, transformers and NumPy.
Scores are compared in the run; in float32 a difference above 1e-5 fails it. Beside each gain stands what the tokens and
the operations foretell. On a CPU the loop is slow, and its time grows with the pairs and nothing else: `--loop-pairs N`
runs it on N of them and counts their time for all. Ends with a line a goal. `--tiny` shows that the script runs; its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.encode_goals import Goal
from benchmarks.encode_shapes import B2, B8, TINY, Shape, random_model
from benchmarks.encode_timing import interleaved, machine, write_json
from benchmarks.rerank_arms import OfficialLoop, Packed
from benchmarks.rerank_items import cells, costs_of
from pipeline.models.options import DTYPES, EncoderOptions
from pipeline.models.reranker import Qwen3VLReranker
from pipeline.rerank.pair import PreparedPair

SHAPES = {"2b": B2, "8b": B8}

TOLERANCE = 1e-5
"""Largest difference of a float32 score: kernels and shapes of batches alone make about 1e-7."""

FORMS = {"ours": "shared", "packed, not shared": "whole"}
"""The form of the work of each arm, as `costs_of` names it; every other is `one by one`."""

LOOP_GOALS = {"image query, texts": 10.0, "image query, images": 5.0}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    chosen = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device, on_gpu = torch.device(chosen.device), chosen.device.startswith("cuda")
    dtype = chosen.dtype or ("bfloat16" if on_gpu else "float32")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    shape = _shape(chosen, on_gpu)
    arms = _arms(shape, device, DTYPES[dtype], on_gpu, chosen)
    document: dict[str, Any] = {"machine": machine(), "options": vars(chosen) | {"dtype": dtype}, "cells": {}}
    wait = (lambda: torch.cuda.synchronize(device)) if on_gpu else (lambda: None)
    for name, pairs in cells(chosen.documents, tiny=chosen.tiny).items():
        document["cells"][name] = cell = _cell(arms, pairs, shape, chosen.rounds, wait)
        _print_cell(name, cell)
        write_json(chosen.out, document)
    document["goals"] = [asdict(goal) | {"verdict": goal.verdict} for goal in goals_of(document["cells"], on_gpu)]
    for goal in goals_of(document["cells"], on_gpu):
        print(f"goal: {goal}", flush=True)
    write_json(chosen.out, document)
    worst = max(row["max_abs"] for cell in document["cells"].values() for row in cell["arms"].values())
    if dtype == "float32" and worst > TOLERANCE:
        sys.exit(f"the arms disagree: a score differs by {worst:.1e}")
    return document


def goals_of(found: dict[str, Any], on_gpu: bool) -> list[Goal]:
    """The goals for a GPU against the loop, None where none ran; and what sharing foretells, wherever it ran."""
    loops = [
        Goal(f"on a GPU, against the official loop, {name}", _gain(found.get(name), "official loop", on_gpu), bound)
        for name, bound in LOOP_GOALS.items()
    ]
    shares = [
        Goal(
            f"gain by sharing, of what its operations foretell, {name}",
            cell["arms"]["packed, not shared"]["gain"] / cell["arms"]["packed, not shared"]["by_operations"],
            1.0,
            True,
        )
        for name, cell in found.items()
    ]
    return loops + shares


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=sorted(SHAPES), default="2b")
    parser.add_argument("--layers", type=int, help="of the language model; on a CPU 1 unless given, on a GPU all")
    parser.add_argument("--vision-layers", type=int, help="of the vision tower, likewise")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="on a CPU float32 unless given, on a GPU bfloat16")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--threads", type=int, help="of torch on a CPU")
    parser.add_argument("--documents", type=int, default=100, help="of each query")
    parser.add_argument("--loop-pairs", type=int, help="how many of them the official loop scores; all unless given")
    parser.add_argument("--rounds", type=int, default=1, help="each is one run there and one back of every arm")
    parser.add_argument("--out", help="where the JSON goes, rewritten after every cell")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and tiny pictures: to see that this runs")
    return parser


def _shape(chosen: argparse.Namespace, on_gpu: bool) -> Shape:
    if chosen.tiny:
        return TINY
    whole = SHAPES[chosen.model]
    layers, v_layers = (whole.layers, whole.v_layers) if on_gpu else (1, 1)
    return whole.cut(chosen.layers or layers, chosen.vision_layers or v_layers)


def _arms(
    shape: Shape, device: torch.device, dtype: torch.dtype, on_gpu: bool, chosen: argparse.Namespace
) -> list[Packed | OfficialLoop]:
    model = random_model(shape, device, dtype)
    # As the rows of yes and no differ in a model initialised like the others: logits of about ±1.
    direction = torch.randn(shape.hidden, generator=torch.Generator().manual_seed(1)).to(device, dtype) * 0.02 * 2**0.5
    # The last layer's shortcut saves 3 % of a whole model, but most of a single layer.
    shortcut = shape.layers > 1
    sharing = Qwen3VLReranker(model, direction, EncoderOptions(chosen.attention, shortcut=shortcut))
    budget = sharing.token_budget if on_gpu else None
    whole = Qwen3VLReranker(
        model, direction, EncoderOptions(chosen.attention, budget, shortcut=shortcut, prefixes=False)
    )
    loops = [OfficialLoop(model, direction, at_most=chosen.loop_pairs)]
    if on_gpu:
        loops.append(OfficialLoop(model, direction, ahead=True, at_most=chosen.loop_pairs))
    return [Packed(sharing, "ours"), Packed(whole, "packed, not shared"), *loops]


def _cell(
    arms: Sequence[Packed | OfficialLoop],
    pairs: Sequence[PreparedPair],
    shape: Shape,
    rounds: int,
    wait: Callable[[], None],
) -> dict[str, Any]:
    seconds, made = interleaved(arms, pairs, rounds=rounds, wait=wait)
    costs, scores = costs_of(pairs, shape), {name: _sigmoid(logits) for name, logits in made.items()}
    ours, our_costs = scores["ours"], costs["shared"]
    rows: dict[str, Any] = {}
    for arm in arms:
        chosen = arm.scored(len(pairs))
        assert len(scores[arm.name]) == len(chosen), f"{arm.name}: pairs are missing"
        assert np.isfinite(scores[arm.name]).all(), f"{arm.name}: a score is not finite"
        whole_s = median(seconds[arm.name]) * len(pairs) / len(chosen)
        cost = costs[FORMS.get(arm.name, "one by one")]
        rows[arm.name] = {
            "seconds": seconds[arm.name],
            "pairs": len(chosen),
            "all_pairs_s": whole_s,
            "pairs_s": len(pairs) / whole_s,
            "tokens": cost.tokens,
            "tflop_s": cost.flops / whole_s / 1e12,
            "by_tokens": cost.tokens / our_costs.tokens,
            "by_operations": cost.flops / our_costs.flops,
            "max_abs": float(np.abs(scores[arm.name] - ours[chosen]).max()),
        }
    for row in rows.values():
        row["gain"] = row["all_pairs_s"] / rows["ours"]["all_pairs_s"]
    query = pairs[0].prefix
    return {
        "documents": len(pairs),
        "query_tokens": query.n_tokens,
        "document_tokens": sum(pair.suffix.n_tokens for pair in pairs),
        "apart": float(np.ptp(ours)),
        "arms": rows,
    }


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _print_cell(name: str, cell: dict[str, Any]) -> None:
    print(
        f"{name}: a query of {cell['query_tokens']} tokens, {cell['documents']} documents of {cell['document_tokens']}"
        f" together; scores lie {cell['apart']:.3f} apart"
    )
    for arm, row in cell["arms"].items():
        print(
            f"{name:<20} {arm:<24} {row['all_pairs_s']:8.3f} s {row['pairs_s']:9.2f} pairs/s {row['tokens']:8d} tokens"
            f" {row['tflop_s']:8.3f} TFLOP/s   ours is {row['gain']:6.2f}×, by tokens {row['by_tokens']:6.2f}×,"
            f" by operations {row['by_operations']:6.2f}×   max|Δ| {row['max_abs']:.1e}  ({row['pairs']} pairs run)",
            flush=True,
        )


def _gain(cell: dict[str, Any] | None, arm: str, measured: bool) -> float | None:
    return cell["arms"][arm]["gain"] if cell and measured else None


if __name__ == "__main__":
    main()
