"""What smaller vectors keep of the neighbours that the full float vectors have, on the user's own items.

In: the float vectors of an index, queries, the dims, dtypes and k to look at. Out: one `RecallCell` for each. Refused
with ConfigError: dims that the vectors do not have, fewer than two items.

The truth is the exact top k of the float32 vectors. recall@k is the share of it that the smaller vectors' exact top k
holds. The rank correlation is Kendall's tau-b over the union of both lists, in which the documents that a list lacks
share the place below its last (after Fagin, Kumar and Sivakumar, Comparing top k lists, SIAM J. Discrete Math., 2003):
1 for equal lists, and below 0 where the lists have little in common.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError
from pipeline.evaluate_config import RecallConfig, Storage
from pipeline.evaluation.sources import Options
from pipeline.evaluation.stored import FloatVectors, stored
from pipeline.evaluation.top_k import TopK, top_k
from pipeline.evaluation.vectors import VectorSource, batches, open_vectors, sample

__all__ = ["Neighbours", "RecallCell", "RecallReport", "cells", "find_neighbours", "recall_report", "specs_of", "tau_b"]

_log = logging.getLogger("lakevec")

_HALVINGS = 4
"""Dims looked at by default: the whole, a half, a quarter, an eighth, as far as they stay whole bytes of bits."""

_SCORE_BYTES = 64 << 20
"""Scores of one batch against all queries."""

_LOW = 10
"""Percentile that tells how the worst queries fare, where the mean hides them."""


@dataclass(frozen=True, slots=True)
class RecallCell:
    """One row of the report. `recall_low`: what nine of ten queries reach. Means are over queries."""

    dim: int
    dtype: Storage
    k: int
    bytes_per_vector: int
    recall: float
    recall_low: float
    tau_b: float


@dataclass(frozen=True, slots=True)
class RecallReport:
    """The cells, and how many queries and documents they come from. `excluded_self`: queries are items themselves."""

    cells: tuple[RecallCell, ...]
    queries: int
    documents: int
    excluded_self: bool


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The best documents of each query by spec, and the number of documents."""

    by_spec: dict[VectorSpec, TopK]
    documents: int


def recall_report(config: RecallConfig, options: Options) -> RecallReport:
    """Read the vectors twice (sampling, then comparing; once with queries of their own) and compare."""
    corpus = open_vectors(config.index, config.vector, options, key="recall.index")
    specs = specs_of(config, corpus.dim)
    source = corpus
    if config.queries is not None:
        source = open_vectors(config.queries, config.vector, options, key="recall.queries")
    if source.dim != corpus.dim:
        raise ConfigError(f"recall.queries: vectors of {source.dim} values, those of the index have {corpus.dim}")
    queries = sample(batches(source), config.sample)
    found = find_neighbours(corpus, queries, specs, max(config.k), excluding_self=source is corpus)
    if not len(queries.keys) or found.documents < 2:
        raise ConfigError(
            f"recall: {found.documents} items and {len(queries.keys)} queries; expected two items and one query or more"
        )
    return RecallReport(
        tuple(cells(found, specs, config.k, corpus.dim)), len(queries.keys), found.documents, source is corpus
    )


def specs_of(config: RecallConfig, dim: int) -> list[VectorSpec]:
    """What to compare, for vectors of `dim` values. Raises ConfigError for dims that cannot be."""
    dims = config.dims or tuple(dim >> i for i in range(_HALVINGS) if i == 0 or not dim % (8 << i))
    if max(dims) > dim:
        raise ConfigError(
            f"recall.dims: {max(dims)} is more than the {dim} values that vectors of {config.vector} have"
        )
    odd = [each for each in dims if each % 8]
    if odd and "binary" in config.dtypes:
        raise ConfigError(f"recall.dims: {odd[0]} is no multiple of 8, as binary vectors need; leave out either")
    return [VectorSpec(dim=each, dtype=dtype) for each in sorted(dims, reverse=True) for dtype in config.dtypes]


def find_neighbours(
    corpus: VectorSource, queries: FloatVectors, specs: Sequence[VectorSpec], k: int, *, excluding_self: bool
) -> Neighbours:
    """The exact top k of each query under each spec and under float32 of all values, in one pass over `corpus`."""
    wanted = k + excluding_self
    asked = {spec: stored(queries, spec) for spec in {_whole(corpus.dim), *specs}}
    best: dict[VectorSpec, TopK] = {}
    documents = 0
    for batch in batches(corpus, rows=max(1, _SCORE_BYTES // (8 * max(1, len(queries.keys))))):
        documents += len(batch.keys)
        for spec, query_codes in asked.items():
            best[spec] = top_k(query_codes, [stored(batch, spec)], wanted, best.get(spec))
    _log.info("recall: %d queries against %d items under %d specs", len(queries.keys), documents, len(asked))
    if excluding_self:
        best = {spec: found.without(queries.keys, k) for spec, found in best.items()}
    return Neighbours(best, documents)


def cells(found: Neighbours, specs: Sequence[VectorSpec], ks: Sequence[int], dim: int) -> list[RecallCell]:
    """The report's rows, for each k and spec. A k above the number of documents looks at all of them."""
    truth = found.by_spec[_whole(dim)].keys
    return [_cell(truth, found.by_spec[spec].keys, spec, k) for k in sorted(ks) for spec in specs]


def tau_b(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Kendall's tau-b of two lists of the same length over their union; 1.0 for equal lists."""
    from scipy.stats import kendalltau

    if np.array_equal(first, second):
        return 1.0
    union = np.union1d(first, second)
    places = [np.full(len(union), len(first)) for _ in range(2)]
    for place, ranked in zip(places, (first, second), strict=True):
        place[np.searchsorted(union, ranked)] = np.arange(len(ranked))
    return float(kendalltau(*places).statistic)


def _cell(truth: NDArray[np.uint64], keys: NDArray[np.uint64], spec: VectorSpec, k: int) -> RecallCell:
    pairs = list(zip(truth[:, :k], keys[:, :k], strict=True))
    kept = np.array([np.intersect1d(*pair, assume_unique=True).size / pair[0].size for pair in pairs])
    correlations = [tau_b(*pair) for pair in pairs]
    assert spec.dim is not None
    return RecallCell(
        spec.dim, spec.dtype, k, _bytes(spec.dim, spec.dtype),
        float(kept.mean()), float(np.percentile(kept, _LOW, method="lower")), float(np.mean(correlations)),
    )  # fmt: skip


def _bytes(dim: int, dtype: Storage) -> int:
    # An int8 vector's scale is a float32 beside it.
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": dim + 4, "binary": dim // 8}[dtype]


def _whole(dim: int) -> VectorSpec:
    return VectorSpec(dim=dim, dtype="float32")
