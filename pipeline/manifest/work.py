"""The work list: items as rows of Arrow and back.

In: `WorkItem`s and their carried columns. Out: a table of `schema.work_schema`, and the items again. Nothing is
refused: both sides are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa

from pipeline.schema import CARRY_PREFIX, MEDIA, work_schema
from pipeline.types import Media, MediaKind, MediaRef, WorkItem

__all__ = ["from_work_table", "to_work_table"]

_REFS: pa.ListType = MEDIA.value_type.field("refs").type


def to_work_table(items: Sequence[WorkItem], carry: pa.Table | None = None) -> pa.Table:
    """`items` as rows; `carry` has as many rows, under the manifest's own names (prefixed on the way in)."""
    carried = () if carry is None else tuple(carry.schema)
    schema = work_schema(carried)
    columns: list[Any] = [
        pa.array([item.id for item in items], pa.string()),
        pa.array([item.fingerprint for item in items], pa.string()),
        pa.array([item.texts for item in items], pa.list_(pa.string())),
        _media_column(items),
        pa.array([item.instruction for item in items], pa.string()),
        pa.array([item.fps for item in items], pa.float64()),
        pa.array([item.max_frames for item in items], pa.int32()),
        pa.array([item.manifest_file for item in items], pa.string()),
        pa.array([item.manifest_row for item in items], pa.int64()),
        pa.array([item.attempts for item in items], pa.int32()),
    ]
    return pa.table(columns + ([] if carry is None else carry.columns), schema=schema)


def from_work_table(table: pa.Table) -> list[WorkItem]:
    """The items of `table`; its carried columns (and any others) are left aside."""
    names = [name for name in work_schema(()).names if not name.startswith(CARRY_PREFIX)]
    columns = [table.column(name).to_pylist() for name in names]
    return [_item(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _media_column(items: Sequence[WorkItem]) -> pa.Array:
    # Level by level, as Arrow has it: a dict for each medium and each ref would take as long as all else.
    media = [medium for item in items for medium in item.media]
    refs = [ref for medium in media for ref in medium.refs]
    columns = {
        "uri": [ref.uri for ref in refs],
        "column": [ref.column for ref in refs],
        "index": [ref.index for ref in refs],
        "expected": [ref.expected for ref in refs],
    }
    files = _lists(_struct(columns, _REFS.value_type), [len(medium.refs) for medium in media], _REFS)
    kinds = pa.array([str(medium.kind) for medium in media], pa.string())
    return _lists(_struct({"kind": kinds, "refs": files}, MEDIA.value_type), [len(item.media) for item in items], MEDIA)


def _struct(columns: Mapping[str, Any], kind: pa.StructType) -> pa.StructArray:
    fields = list(kind)
    return pa.StructArray.from_arrays([pa.array(columns[field.name], field.type) for field in fields], fields=fields)


def _lists(values: pa.Array, lengths: Sequence[int], kind: pa.ListType) -> pa.ListArray:
    offsets = pa.array([0, *accumulate(lengths)], pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=kind)


def _item(row: dict[str, Any]) -> WorkItem:
    media = tuple(
        Media(
            MediaKind(medium["kind"]),
            tuple(
                MediaRef(ref["uri"], ref["column"], ref["index"], tuple(ref["expected"] or ()))
                for ref in medium["refs"]
            ),
        )
        for medium in row["media"]
    )
    return WorkItem(**{**row, "texts": tuple(row["texts"]), "media": media})
