"""Vector columns made from stored ones, without the model: a smaller dim, a coarser dtype, another name.

In: the vector specs of an index and those that are wanted; then rows of its vectors files. Out: the same rows with the
wanted vector columns. Refused: specs that no stored column can give (None), and a row whose vector has no length once
it is cut (OwnershipError): what it would need is a reject, and only the model's own vector says which.

A column of the same dim and dtype is kept as it is, bit for bit. Others come from the finest floats that are long
enough: float32 before float16. Codes and bits are ends: nothing is made from int8 or binary, and nothing finer from
float16. Cutting a unit vector and normalising again is cutting the model's vector and normalising once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import OwnershipError
from pipeline.index.carried import carried_fields
from pipeline.quantize import quantize
from pipeline.schema import vector_fields

__all__ = ["Derivation", "DerivedColumn", "derivation_of", "underivable"]

_MADE_FROM = {"float32": {"float32", "float16", "int8", "binary"}, "float16": {"float16", "int8", "binary"}}
"""What each stored dtype can give, the finest first."""


@dataclass(frozen=True, slots=True)
class DerivedColumn:
    """How the column of `spec` (its dim is set) comes from the stored column `source`: `kept` as it is, or made."""

    spec: VectorSpec
    source: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Derivation:
    """The specs of the stored files (dims set), and one `DerivedColumn` a wanted spec, in the wanted order."""

    stored: tuple[VectorSpec, ...]
    columns: tuple[DerivedColumn, ...]

    def schema_of(self, schema: pa.Schema) -> pa.Schema:
        """The schema of a file of `schema` after `rows_of`."""
        return self.rows_of(pa.RecordBatch.from_pylist([], schema)).schema if self._applies(schema) else schema

    def rows_of(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """`rows` of a file with the stored columns, with the wanted ones; rows of any other file as they are.

        Raises OwnershipError for a vector without length in its first values.
        """
        if not self._applies(rows.schema):
            return rows
        fields = vector_fields([column.spec for column in self.columns], 0)
        arrays = [array for column in self.columns for array in _arrays(column, rows)]
        gone = {field.name for field in self._stored_fields}
        carried = {field.name for field in carried_fields(rows.schema)}
        taken = {field.name for field in fields} & carried
        stay = [
            place
            for place, name in enumerate(rows.schema.names[1:], start=1)
            if name not in taken and (name in carried or name not in gone)
        ]
        schema = [rows.schema.field(0), *fields, *(rows.schema.field(place) for place in stay)]
        columns = [rows.column(0), *arrays, *(rows.column(place) for place in stay)]
        return pa.RecordBatch.from_arrays(columns, schema=pa.schema(schema))

    @property
    def _stored_fields(self) -> list[pa.Field]:
        return vector_fields(self.stored, 0)

    def _applies(self, schema: pa.Schema) -> bool:
        own = list(schema)[: len(schema) - len(carried_fields(schema))]
        there = {field.name: field.type for field in own}
        stored = {field.name: field.type for field in self._stored_fields}
        new = {field.name for field in vector_fields([column.spec for column in self.columns], 0)} - stored.keys()
        return not new & there.keys() and all(there.get(name) == kind for name, kind in stored.items())


def derivation_of(
    stored: Sequence[Mapping[str, Any]], wanted: Sequence[VectorSpec], hidden_dim: int
) -> Derivation | None:
    """How files of `stored` specs (as commits record them) become those of `wanted`; None if they cannot."""
    there = tuple(VectorSpec.model_validate(dict(spec)) for spec in stored)
    found = [_column(there, spec.model_copy(update={"dim": spec.dim or hidden_dim})) for spec in wanted]
    columns = tuple(column for column in found if column is not None)
    return Derivation(there, columns) if len(columns) == len(wanted) else None


def underivable(
    stored: Sequence[Mapping[str, Any]], wanted: Sequence[VectorSpec], hidden_dim: int
) -> tuple[VectorSpec, ...]:
    """Those of `wanted` (dims set) that no stored column can give."""
    specs = (spec.model_copy(update={"dim": spec.dim or hidden_dim}) for spec in wanted)
    return tuple(spec for spec in specs if derivation_of(stored, [spec], hidden_dim) is None)


def _column(stored: Sequence[VectorSpec], spec: VectorSpec) -> DerivedColumn | None:
    same = [each for each in stored if (each.dim, each.dtype) == (spec.dim, spec.dtype)]
    if same:
        named = next((each for each in same if each.name == spec.name), same[0])
        return DerivedColumn(spec, named.name, kept=True)
    for dtype, made in _MADE_FROM.items():
        enough = [each for each in stored if each.dtype == dtype and (each.dim or 0) >= (spec.dim or 0)]
        if enough and spec.dtype in made:
            return DerivedColumn(spec, min(enough, key=lambda each: each.dim or 0).name, kept=False)
    return None


def _arrays(column: DerivedColumn, rows: pa.RecordBatch) -> list[pa.Array]:
    if column.kept:
        names = [column.source, f"{column.source}_scale"] if column.spec.dtype == "int8" else [column.source]
        return [rows.column(rows.schema.get_field_index(name)) for name in names]
    made = quantize(_matrix(rows.column(rows.schema.get_field_index(column.source))), [column.spec])
    if not made.ok.all():
        id_ = rows.column(0)[int(np.flatnonzero(~made.ok)[0])].as_py()
        raise OwnershipError(
            f"{column.spec.name} cannot be made from the stored {column.source}: the vector of id {id_!r} has no "
            f"length in its first {column.spec.dim} values; give another dim, or an output of its own to a job with it"
        )
    return made.arrays()


def _matrix(column: pa.FixedSizeListArray) -> NDArray[np.float32]:
    values: NDArray[np.float32] = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(column), column.type.list_size)
