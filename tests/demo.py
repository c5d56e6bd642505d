"""`make demo`: make tiny models and a sample lake with judged queries, then show what the job wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table

from pipeline.index.files import live_files
from pipeline.storage import Store, open_store
from tests.fixtures.corpus import write_corpus, write_queries
from tests.fixtures.tiny_model import build_tiny_model

DEMO = Path(".demo")
QUERIES = ("text-en", "image-beach", "video-clip")
NEIGHBOURS = 3


def make() -> None:
    """Build `.demo/model`, `.demo/reranker` and `.demo/lake`."""
    DEMO.mkdir(exist_ok=True)
    for name in ("model", "reranker"):
        if not (DEMO / name / "model.safetensors").exists():
            print(f"making a tiny Qwen3-VL with random weights in {DEMO}/{name}", flush=True)
            build_tiny_model(DEMO / name, reranker=name == "reranker")
    print("making sample media, a manifest and judged queries in .demo/lake", flush=True)
    write_corpus(DEMO / "lake")
    write_queries(DEMO / "lake")


def show() -> None:
    """Print counts, rejects, nearest neighbours and places of the newest run."""
    console = Console(width=110)
    summaries = sorted((DEMO / "output" / "reports").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
    summary = json.loads(summaries[-1].read_text())
    counts = ", ".join(f"{name} {n}" for name, n in summary["counts"].items())
    console.print(f"\n[bold]{summary['status']}[/bold] (exit code {summary['exit_code']}): {counts}")
    store = open_store(str(DEMO / "output"), {})
    rejects = ds.dataset([store.full(entry.path) for entry in live_files(store, "rejects")]).to_table().to_pylist()
    table = Table("id", "code", "stage", "detail", title="Rejects, with their reasons", title_justify="left")
    for row in sorted(rejects, key=lambda row: row["id"]):
        table.add_row(row["id"], row["code"], row["stage"], row["detail"])
    console.print(table)
    console.print(_neighbours(store))
    console.print("The weights are random, so nearness means little here; equal items still get equal vectors.")
    console.print(f"vectors   {DEMO}/output/vectors/  (live files: .venv/bin/lakevec files {DEMO}/output)")
    console.print(f"rejects   {DEMO}/output/rejects/")
    console.print(f"summary   {summaries[-1]}")
    console.print("Run make demo again: nothing is left to do, and it says so in seconds.")
    console.print('Search this lake: "Search over your lake in five commands" in README.md.')


def _neighbours(store: Store) -> Table:
    rows = ds.dataset([store.full(entry.path) for entry in live_files(store)]).to_table(["id", "modality", "vector"])
    ids = rows.column("id").to_pylist()
    modality = dict(zip(ids, rows.column("modality").to_pylist(), strict=True))
    vectors = np.stack(rows.column("vector").to_numpy(zero_copy_only=False))
    table = Table("item", "nearest neighbours (cosine)", title="Nearest neighbours", title_justify="left")
    for query in QUERIES:
        cosine = vectors @ vectors[ids.index(query)]
        nearest = [index for index in np.argsort(-cosine) if ids[index] != query][:NEIGHBOURS]
        cells = [f"{ids[index]} {cosine[index]:.3f}" for index in nearest]
        table.add_row(f"{query} ({modality[query]})", "   ".join(cells))
    return table


if __name__ == "__main__":
    {"make": make, "show": show}[sys.argv[1]]()
