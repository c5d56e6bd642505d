"""Vectors as they are stored: finite check, cut to `dim` (MRL), L2-normalise, quantise, in this order.

In: the encoder's raw vectors, float32[n, hidden_dim]. Out: one array a stored column, and which rows are good.
A row with NaN, infinity or zero norm under any spec is bad; what its columns then hold means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError

__all__ = ["Quantized", "check_specs", "formula", "quantize"]

INT8_MAX = 127
"""−128 stays unused, so that a code and its negative are both there."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Stored columns by name, in the order of `schema.vector_fields`: [n, width] arrays, and [n] scales.

    `ok`: bool[n], False where the row has no vector.
    """

    columns: dict[str, NDArray[Any]]
    ok: NDArray[np.bool_]

    def arrays(self) -> list[pa.Array]:
        """The columns as Arrow arrays of the types of `schema.vector_fields`, all n rows."""
        return [_arrow(column) for column in self.columns.values()]


def check_specs(specs: Sequence[VectorSpec], hidden_dim: int) -> None:
    """Raise ConfigError if the model, whose vectors have `hidden_dim` values, cannot give one of `specs`."""
    for spec in specs:
        if spec.dim is not None and spec.dim > hidden_dim:
            raise ConfigError(
                f"output.vectors: {spec.name} wants dim {spec.dim}, but the model's vectors have {hidden_dim}; "
                f"give dim {hidden_dim} or less"
            )
        if spec.dtype == "binary" and (spec.dim or hidden_dim) % 8:
            raise ConfigError(
                f"output.vectors: {spec.name} is binary, and the model's {hidden_dim} values are no multiple of 8 "
                "(bits are packed); give a dim that is"
            )


def quantize(vectors: NDArray[np.float32], specs: Sequence[VectorSpec]) -> Quantized:
    """`vectors` (float32[n, hidden_dim], not normalised) as the columns of `specs`. Raises as `check_specs` does."""
    check_specs(specs, int(vectors.shape[1]))
    ok: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    finite = np.where(ok[:, None], vectors, np.float32(0))
    columns: dict[str, NDArray[Any]] = {}
    for spec in specs:
        unit, nonzero = _unit(finite[:, : spec.dim])
        ok &= nonzero
        columns |= _encode(unit, spec)
    return Quantized(columns, ok)


def formula(spec: VectorSpec) -> str:
    """How `spec`'s column was made from the model's vector, for the Parquet metadata."""
    cut = f"v = x[:{spec.dim}]/|x[:{spec.dim}]|" if spec.dim else "v = x/|x|"
    tail = {
        "float32": "stored as float32",
        "float16": "stored as float16",
        "int8": f"code = clip(round(v*127/max|v|), -127, 127); {spec.name}_scale = max|v|/127; v ~ code*scale",
        "binary": "bit = v > 0, packed most significant bit first",
    }
    return f"{cut}; {tail[spec.dtype]}"


def _unit(cut: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    # In float64, squares of any float32 neither overflow nor vanish.
    wide = cut.astype(np.float64)
    norm = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    nonzero = norm > 0
    unit = wide / np.where(nonzero, norm, 1.0)[:, None]
    return unit.astype(np.float32), nonzero


def _encode(unit: NDArray[np.float32], spec: VectorSpec) -> dict[str, NDArray[Any]]:
    if spec.dtype == "int8":
        codes, scale = _int8(unit)
        return {spec.name: codes, f"{spec.name}_scale": scale}
    if spec.dtype == "binary":
        return {spec.name: np.packbits(unit > 0, axis=1, bitorder="big")}
    # A unit vector's values are at most 1: no float16 overflows.
    return {spec.name: unit.astype(np.float16 if spec.dtype == "float16" else np.float32)}


def _int8(unit: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    peak = np.abs(unit).max(axis=1, keepdims=True)
    safe = np.where(peak > 0, peak, np.float32(1))
    codes = np.clip(np.rint(unit * np.float32(INT8_MAX) / safe), -INT8_MAX, INT8_MAX).astype(np.int8)
    return codes, (peak[:, 0] / np.float32(INT8_MAX)).astype(np.float32)


def _arrow(column: NDArray[Any]) -> pa.Array:
    values = pa.array(np.ascontiguousarray(column).reshape(-1))
    if column.ndim == 1:
        return values
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(pa.field("element", values.type), column.shape[1]))
