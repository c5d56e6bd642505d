"""Scores of documents for queries, both as one column stores them: greater is nearer.

In: `Codes` of both. Out: float32[n documents, n queries]: for floats the inner product, summed in float64; for int8 the
integer product of the codes times both scales; for binary 1 - 2·(bits that differ)/dim, the cosine of the sign vectors.
Refused: nothing.

A pair's score has the same bits in whatever company it is computed: integers are exact, and NumKong's float kernel sums
a pair in one order. A BLAS product does not (measured on 1024 values: one score in a thousand changed with the
number of rows beside it), and a list would depend on how the corpus is split into files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numkong
import numpy as np
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.retrieval.codes import Codes

__all__ = ["Queries", "pack", "scores"]


@dataclass(frozen=True, slots=True)
class Queries:
    """Query vectors as the kernel wants them: laid out once, used for every batch of documents."""

    spec: VectorSpec
    n: int
    packed: Any
    scale: NDArray[np.float32] | None


def pack(codes: Codes, spec: VectorSpec) -> Queries:
    """`codes`, at least one query quantised as `spec`, made ready."""
    if spec.dtype == "binary":
        packed = numkong.hammings_pack(codes.values, "uint1")
    else:
        packed = numkong.dots_pack(_plain(codes.values), "int8" if spec.dtype == "int8" else "float32")
    return Queries(spec, len(codes), packed, codes.scale)


def scores(documents: Codes, queries: Queries) -> NDArray[np.float32]:
    """float32[n documents, n queries]."""
    if queries.spec.dtype == "binary":
        differing = np.asarray(numkong.hammings_packed(documents.values, queries.packed))
        bits = np.float32(documents.values.shape[1] * 8)
        # (bits - 2·differing)/bits: whole numbers up to the division. In float64 it would take longer than the kernel.
        found: NDArray[np.float32] = differing.astype(np.float32)
        found *= -2
        found += bits
        found /= bits
        return found
    products = np.asarray(numkong.dots_packed(_plain(documents.values), queries.packed))
    if documents.scale is None or queries.scale is None:
        return np.asarray(products, np.float32)
    scaled: NDArray[np.float32] = np.multiply(products, documents.scale[:, None], dtype=np.float32, casting="unsafe")
    scaled *= queries.scale
    return scaled


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    # Half floats are widened: the kernel for them would have the queries rounded to half floats too.
    return values if values.dtype == np.int8 else np.ascontiguousarray(values, np.float32)
