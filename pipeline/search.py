"""A query of words or pictures against an index, answered at once in this process.

In: an index, a query dictionary (`pipeline.official`), k. Out: `Hit`s, best first, with modality and carried columns.
Refused with ConfigError: an index that names no model where none is given, a model that is not the index's, vector
columns that are not there, filters that do not fit; with EmbedError a query that cannot be read.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.checkpoint import resolve_checkpoint
from pipeline.config import InputsConfig, ModelConfig
from pipeline.embedder import Embedder
from pipeline.errors import ConfigError
from pipeline.index.carried import carried_fields
from pipeline.index.parquet import open_parquet
from pipeline.retrieval.retrieval import Retrieval
from pipeline.retrieval.scan import cut_pieces
from pipeline.retrieval.settle import settle, settle_rescore
from pipeline.retrieval.top_k import ranks
from pipeline.retrieval.vector_index import VectorIndex
from pipeline.retrieve_config import RescoreConfig
from pipeline.storage import Store

__all__ = ["Hit", "Query", "embed_query", "query_dim", "search", "settle_search"]

RESCORED = ("binary", "int8")
"""Columns whose documents are ranked again: one query's worth of vectors is read in no time."""

_log = logging.getLogger("lakevec")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked: a dictionary of `pipeline.official`, and with which model; None: the index's own."""

    item: Mapping[str, Any]
    model: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One document: `rank` from 1, its `columns` (modality, then the carried ones) by name."""

    rank: int
    id: str | int
    score: float
    columns: dict[str, Any]


def settle_search(index: VectorIndex, column: str, k: int, condition: str | None = None) -> Retrieval:
    """A retrieval of the `k` items whose vectors in `column` are nearest. Raises ConfigError for what does not fit."""
    spec = index.spec(column)
    again = RescoreConfig() if spec.dtype in RESCORED else None
    rescore = settle_rescore(again, index, spec, query_dim(index), cut=True)
    return settle(index, spec, k=k, condition=condition, rescore=rescore, oversample=RescoreConfig().oversample)


def query_dim(index: VectorIndex) -> int:
    """How many values a query's vector needs: those of the longest column, from which the others are cut."""
    return max(spec.dim or 0 for spec in index.specs)


def embed_query(index: VectorIndex, query: Query) -> NDArray[np.float32]:
    """float32[1, `query_dim`]: the vector of `query`, prepared as the index's own items were."""
    model, inputs = _model(index, query), _inputs(index)
    with Embedder(
        model.path, revision=model.revision, dtype=model.dtype, dim=query_dim(index), inputs=inputs
    ) as embedder:
        return embedder.embed([query.item])


def search(retrieval: Retrieval, vector: NDArray[np.float32]) -> list[Hit]:
    """The items that `retrieval` finds for float32[1, dim] `vector`."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:

        def workers(function: Callable[[Any], pa.Table], arguments: Sequence[Any]) -> Iterable[pa.Table]:
            return pool.map(function, arguments)  # kernels, Parquet and DuckDB let go of the interpreter's lock

        pieces = cut_pieces(retrieval.corpus.files, threads)
        found = retrieval.answer(pa.array(["the query"]), vector, pieces, workers)
    return _hits(retrieval.corpus, found)


def _hits(index: VectorIndex, found: pa.Table) -> list[Hit]:
    names = ["modality", *(field.name for field in carried_fields(index.schema))]
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for file in sorted(set(found.column("file").to_pylist())):
        wanted = sorted(row["row"] for row in found.to_pylist() if row["file"] == file)
        rows |= {(file, row): cells for row, cells in _cells(index.store, index.files[file].path, wanted, names)}
    return [
        Hit(int(rank), row["id"], row["score"], rows[row["file"], row["row"]])
        for rank, row in zip(ranks(found), found.to_pylist(), strict=True)
    ]


def _cells(
    store: Store, path: str, wanted: Sequence[int], names: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    with open_parquet(store, path) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            end = start + parquet.metadata.row_group(group).num_rows
            here = [row for row in wanted if start <= row < end]
            if here:
                table = parquet.read_row_group(group, columns=list(names)).take([row - start for row in here])
                yield from zip(here, table.to_pylist(), strict=True)
            start = end


def _model(index: VectorIndex, query: Query) -> ModelConfig:
    facts = index.facts
    path = query.model or facts.get("model")
    if not path:
        raise ConfigError(f"{index.store.root} does not say which model made it; give --model")
    recorded = None if query.model or facts.get("revision") == "null" else facts.get("revision")
    model = ModelConfig.model_validate(
        {"path": path, "revision": query.revision or recorded, "dtype": facts.get("model_dtype", "bfloat16")}
    )
    identity, expected = resolve_checkpoint(model, weights=False).identity, facts.get("model_identity")
    if expected and identity != expected:
        said = f"{path} is {identity}, the index was made by {facts.get('model')}, {expected}"
        if not query.model:
            raise ConfigError(f"{said}: their vectors cannot be compared; give the model as it was with --model")
        _log.warning("%s: what is found may mean nothing", said)
    return model


def _inputs(index: VectorIndex) -> InputsConfig:
    """How the index's run prepared its items, but for the instruction, which is the query's own."""
    path = f"reports/{index.run_id}/summary.json"
    try:
        document = json.loads(index.store.read(path))
        inputs = InputsConfig.model_validate(document["config"]["inputs"])
    except (FileNotFoundError, KeyError, ValueError, ValidationError):
        _log.warning("%s is not there or has no inputs: the query is prepared with the defaults", path)
        inputs = InputsConfig()
    return inputs.model_copy(update={"instruction": None})
