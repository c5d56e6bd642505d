"""Vectors as an index stores them, out of Arrow columns, and the float vectors that they stand for.

In: rows of a vectors table, or float vectors, and the column's `VectorSpec` (its `dim` is never None here). Out:
`Codes`, float32 arrays. Refused: nothing; `lakevec verify` is what checks an index's values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.quantize import quantize

__all__ = ["Codes", "column_names", "floats", "quantized", "stored"]


@dataclass(frozen=True, slots=True)
class Codes:
    """n vectors of one column: `values` [n, width] in the stored dtype; `scale` float32[n] beside int8, else None."""

    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, which: slice | NDArray[np.int64]) -> Codes:
        """Some of the vectors."""
        return Codes(self.values[which], None if self.scale is None else self.scale[which])


def column_names(spec: VectorSpec) -> list[str]:
    """The table's columns that hold the vectors of `spec`."""
    return [spec.name, f"{spec.name}_scale"] if spec.dtype == "int8" else [spec.name]


def stored(table: pa.Table, spec: VectorSpec) -> Codes:
    """The vectors of `spec` in rows of a vectors table, copied only where the table has several chunks."""
    lists = (
        pa.concat_arrays(table.column(spec.name).chunks) if table.num_rows else pa.array([], _value_list(table, spec))
    )
    values = lists.flatten().to_numpy(zero_copy_only=False).reshape(table.num_rows, lists.type.list_size)
    scale = table.column(f"{spec.name}_scale").to_numpy() if spec.dtype == "int8" else None
    return Codes(values, scale)


def _value_list(table: pa.Table, spec: VectorSpec) -> pa.DataType:
    return table.schema.field(spec.name).type


def quantized(vectors: NDArray[np.float32], spec: VectorSpec) -> tuple[Codes, NDArray[np.bool_]]:
    """float32[n, ≥ dim] `vectors` as `spec` would store them, and which rows are good (`pipeline.quantize`)."""
    made = quantize(vectors, [spec])
    return Codes(made.columns[spec.name], made.columns.get(f"{spec.name}_scale")), made.ok


def floats(codes: Codes, spec: VectorSpec) -> NDArray[np.float32]:
    """float32[n, dim]: what `codes` stand for. A bit stands for ±1/√dim, so that these vectors have length 1 too."""
    if spec.dtype == "binary":
        signs = np.unpackbits(codes.values, axis=1, count=spec.dim).astype(np.float32) * 2 - 1
        return signs / np.float32(np.sqrt(signs.shape[1]))
    values = codes.values.astype(np.float32)
    return values if codes.scale is None else values * codes.scale[:, None]
