"""One side of `prepare_cpu` in a process of its own: cells named on stdin are run, their cost is printed as JSON.

In: `ours`, `fast` or `stock`, the media folder and the tokenizer's. Out: one line a request. CPU time of the whole
process is what counts, so neighbours on the machine cost little and hidden threads are not free.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path

from benchmarks.prepare_media import CLIP, Cell

MIN_CPU_S = 0.3
"""Repeat until so much is measured: the clock ticks in ns, but a cell's first touch of memory does not repeat."""


def main(side: str, folder: str, tokenizer: str) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cells: list[Cell] = pickle.loads((Path(folder) / "cells.pickle").read_bytes())
    clips = [cell.items[0].paths[0] for cell in cells if cell.name == CLIP]
    if side == "stock":
        from benchmarks.prepare_stock import decord_decoding, stock_cells

        works = stock_cells(cells, Path(tokenizer))
        works |= {f"{CLIP}, decoding alone": decord_decoding(clip) for clip in clips}
    else:
        from benchmarks.prepare_ours import our_cells, our_decoding, our_stages

        works = our_cells(cells, Path(tokenizer), fast=side == "fast")
        works |= {f"{CLIP}, decoding alone": our_decoding(clip) for clip in clips}
        works |= our_stages(cells, Path(tokenizer))
    count = {cell.name: len(cell.items) for cell in cells}
    print(json.dumps(list(works)), flush=True)
    for line in sys.stdin:
        name = json.loads(line)
        runs, started = 0, time.process_time()
        while True:
            size, digest = works[name]()
            runs += 1
            spent = time.process_time() - started
            if spent >= MIN_CPU_S:
                break
        items = runs * count.get(name, 1)
        row = {"cpu_s": spent / items, "bytes": size / count.get(name, 1), "digest": digest}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
