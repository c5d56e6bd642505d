"""The work list: items as rows of Arrow and back.

In: `WorkItem`s and their carried columns. Out: a table of `schema.work_schema`, and the items again. Nothing is
refused: both sides are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.schema import CARRY_PREFIX, MEDIA, work_schema
from pipeline.types import Media, MediaKind, MediaRef, WorkItem

__all__ = ["from_work_table", "to_work_table"]


def to_work_table(items: Sequence[WorkItem], carry: pa.Table | None = None) -> pa.Table:
    """`items` as rows; `carry` has as many rows, under the manifest's own names (prefixed on the way in)."""
    carried = () if carry is None else tuple(carry.schema)
    schema = work_schema(carried)
    columns: list[Any] = [
        pa.array([item.id for item in items], pa.string()),
        pa.array([item.fingerprint for item in items], pa.string()),
        pa.array([item.texts for item in items], pa.list_(pa.string())),
        pa.array([_media_rows(item.media) for item in items], MEDIA),
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


def _media_rows(media: Sequence[Media]) -> list[dict[str, Any]]:
    return [
        {
            "kind": str(medium.kind),
            "refs": [
                {"uri": ref.uri, "column": ref.column, "index": ref.index, "expected": ref.expected}
                for ref in medium.refs
            ],
        }
        for medium in media
    ]


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
