"""Encoding on CPU cores: ours against the stock model in padded batches and against sentence-transformers.

    python -m benchmarks.encode_cpu --out encode_cpu.json

True widths of the 2B model, one layer of either tower (all layers cost the same), random weights; all arms share them.
Ours computes every token of the last layer too: its shortcut saves 3 % of a whole model, but most of a single layer.
sentence-transformers is an extra: `pip install -e '.[bench]'`; without it its arms are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Any

import torch

from benchmarks.encode_arms import Arm, Ours, SentenceTransformers, Stock
from benchmarks.encode_items import images, mixed, skewed_texts, texts
from benchmarks.encode_shapes import B2, TINY, random_model
from benchmarks.encode_timing import compare, machine, print_rows, write_json
from pipeline.models.options import DTYPES, EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.types import Prepared


def sets(scale: float) -> dict[str, list[Prepared]]:
    """The items of each cell; `scale` 1 is a few minutes on two quiet cores."""
    n = max(1, round(8 * scale))
    return {
        "skewed texts": skewed_texts(6 * n, 60),
        "long tail": skewed_texts(4 * n, 100, sigma=1.2),
        "equal texts": texts([96] * (4 * n)),
        "images": images(n),
        "mixed rows": mixed(skewed_texts(3 * n, 60), images(n // 2 or 1)),
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="where the JSON goes")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--vision-layers", type=int, default=1)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="each is one run there and one back of every arm")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sets")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: to see that this runs")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    shape = TINY if chosen.tiny else B2.cut(chosen.layers, chosen.vision_layers)
    model = random_model(shape, torch.device("cpu"), DTYPES[chosen.dtype])
    arms: list[Arm] = [Ours(Qwen3VLEncoder(model, EncoderOptions(shortcut=False))), Stock(model, 16)]
    if importlib.util.find_spec("sentence_transformers"):
        arms += [SentenceTransformers(model, 16), SentenceTransformers(model, 32)]
    document: dict[str, Any] = {"machine": machine(), "options": vars(chosen), "cells": {}}
    for name, items in sets(chosen.scale).items():
        document["cells"][name] = cell = compare(arms, items, rounds=chosen.rounds)
        print_rows(name, cell)
        write_json(chosen.out, document)
    worst = max(row["max_abs"] for cell in document["cells"].values() for row in cell["arms"].values())
    if chosen.dtype == "float32" and worst > 1e-5:
        sys.exit(f"the arms disagree: a unit vector differs by {worst:.1e}")
    return document


if __name__ == "__main__":
    main()
