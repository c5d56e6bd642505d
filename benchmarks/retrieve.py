"""Exact top-k over stored codes: our scan against a float matrix product and against usearch's exact search.

    python -m benchmarks.retrieve [--documents 200000] [--dim 1024] [--queries 100] [--k 10] [--out retrieve.json]

One thread each (set OPENBLAS_NUM_THREADS=1), vectors in memory, the best of three rounds; "from Parquet" reads and
decodes an index file as a Ray task does. Recall is against float32 lists of the same random vectors, which are
harder to tell apart than a model's. usearch is optional (`pip install lakevec[bench]`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.quantize import quantize
from pipeline.retrieval.codes import Codes, quantized
from pipeline.retrieval.kernels import pack, scores
from pipeline.retrieval.scan import TILE_QUERIES, TILE_ROWS, Piece, Scan, scan_piece
from pipeline.retrieval.top_k import Best
from pipeline.schema import vector_fields
from pipeline.storage import open_store

ROUNDS = 3
GROUP_ROWS = 30_000
"""About what our writer puts into a row group of 1024 codes a row."""

Lists = NDArray[np.int64]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("documents", 200_000), ("dim", 1024), ("queries", 100), ("k", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    documents, queries = _directions(options.documents, options.dim, 0), _directions(options.queries, options.dim, 1)
    truth = _numpy(documents, queries, options.k)
    arms = _arms(documents, queries, options.k)
    document = {
        "shape": {name: getattr(options, name) for name in ("documents", "dim", "queries", "k")},
        "arms": {name: _measured(arm, truth, name) for name, arm in arms.items()},
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=2))
    return document


def _directions(n: int, dim: int, seed: int) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal((n, dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _arms(documents: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> dict[str, Callable[[], Lists]]:
    dim = documents.shape[1]
    ids = pa.array([f"item-{number:09d}" for number in range(len(documents))])
    arms: dict[str, Callable[[], Lists]] = {
        "numpy float32 product and argpartition": lambda: _numpy(documents, queries, k)
    }
    for dtype in ("float32", "int8", "binary"):
        spec = VectorSpec.model_validate({"dim": dim, "dtype": dtype})
        stored, asked = _codes(documents, spec), _codes(queries, spec)
        arms[f"ours {dtype}"] = lambda stored=stored, asked=asked, spec=spec: _ours(stored, asked, spec, ids, k)  # type: ignore[misc]
    int8 = VectorSpec(dim=dim, dtype="int8")
    arms["ours int8 from Parquet"] = _parquet_arm(documents, _codes(queries, int8), int8, ids, k)
    arms |= _usearch_arms(_codes(documents, int8).values, _codes(queries, int8).values, k)
    return arms


def _codes(vectors: NDArray[np.float32], spec: VectorSpec) -> Codes:
    # In slices: quantising works in float64.
    parts = [quantized(vectors[start : start + GROUP_ROWS], spec)[0] for start in range(0, len(vectors), GROUP_ROWS)]
    scales = [part.scale for part in parts if part.scale is not None]
    return Codes(np.concatenate([part.values for part in parts]), np.concatenate(scales) if scales else None)


def _numpy(documents: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> Lists:
    found = queries @ documents.T
    best = np.argpartition(-found, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(found, best, axis=1), axis=1)
    return np.asarray(np.take_along_axis(best, order, axis=1), np.int64)


def _ours(stored: Codes, asked: Codes, spec: VectorSpec, ids: pa.Array, k: int) -> Lists:
    best = Best(len(asked), k, ids.type)
    packed = [pack(asked.rows(slice(at, at + TILE_QUERIES)), spec) for at in range(0, len(asked), TILE_QUERIES)]
    for start in range(0, len(stored), TILE_ROWS):
        tile = stored.rows(slice(start, start + TILE_ROWS))
        for number, block in enumerate(packed):
            rows = np.arange(start, start + len(tile))
            best.offer(scores(tile, block), number * TILE_QUERIES, ids[start : start + TILE_ROWS], 0, rows)
    return _lists(best.table(), len(asked))


def _lists(found: pa.Table, n_queries: int) -> Lists:
    return np.asarray(found.column("row").to_numpy().reshape(n_queries, -1))


def _parquet_arm(
    documents: NDArray[np.float32], asked: Codes, spec: VectorSpec, ids: pa.Array, k: int
) -> Callable[[], Lists]:
    folder = tempfile.mkdtemp(prefix="lakevec-bench-")
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), *vector_fields([spec], spec.dim or 0)])
    with pq.ParquetWriter(f"{folder}/part.parquet", schema, compression="zstd", store_schema=True) as writer:
        for start in range(0, len(documents), GROUP_ROWS):
            rows = slice(start, start + GROUP_ROWS)
            columns = [ids[rows], *quantize(documents[rows], [spec]).arrays()]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)
    store, scan = open_store(folder), Scan(spec, k, pa.string())
    return lambda: _lists(scan_piece(store, Piece(0, "part.parquet"), asked, scan), len(asked))


def _usearch_arms(stored: NDArray[np.int8], asked: NDArray[np.int8], k: int) -> dict[str, Callable[[], Lists]]:
    try:
        from usearch.index import MetricKind, search
    except ImportError:
        return {}

    def exact() -> Lists:
        found = search(stored, asked, k, MetricKind.Cos, exact=True, threads=1)
        return np.asarray(found.keys, np.int64).reshape(len(asked), -1)

    return {"usearch exact int8 (cosine)": exact}


def _measured(arm: Callable[[], Lists], truth: Lists, name: str) -> dict[str, float]:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        lists = arm()
        seconds.append(time.perf_counter() - started)
    kept = [len(set(a) & set(b)) for a, b in zip(lists.tolist(), truth.tolist(), strict=True)]
    row = {"seconds": round(min(seconds), 4), "recall": round(sum(kept) / truth.size, 4)}
    print(f"{name:<40} {row['seconds']:8.3f} s   recall {row['recall']:.4f}", flush=True)
    return row


if __name__ == "__main__":
    main()
