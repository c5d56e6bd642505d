"""Float vectors of a batch of items, as a column of another dim and dtype would store them.

In: float32 vectors with the keys of their items. Out: codes and scales of one spec, made by `pipeline.quantize`.
Refused with ManifestError: a vector without direction in the first `dim` values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ManifestError
from pipeline.quantize import quantize

__all__ = ["FloatVectors", "StoredVectors", "stored"]


@dataclass(frozen=True, slots=True)
class FloatVectors:
    """Items by key: uint64[n], and float32[n, dim]."""

    keys: NDArray[np.uint64]
    values: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """Items by key: uint64[n], codes[n, width] of `dtype`, and of int8 codes the scales, float32[n]."""

    dtype: str
    keys: NDArray[np.uint64]
    codes: NDArray[Any]
    scales: NDArray[np.float32] | None = None


def stored(vectors: FloatVectors, spec: VectorSpec) -> StoredVectors:
    """`vectors` cut, normalised and quantised as `spec` says."""
    quantized = quantize(vectors.values, [spec])
    if not quantized.ok.all():
        raise ManifestError(
            f"recall: {int((~quantized.ok).sum())} vectors have NaN, infinity or zero norm in their first "
            f"{spec.dim or vectors.values.shape[1]} values; expected vectors that lakevec wrote"
        )
    columns = quantized.columns
    return StoredVectors(spec.dtype, vectors.keys, columns[spec.name], columns.get(f"{spec.name}_scale"))
