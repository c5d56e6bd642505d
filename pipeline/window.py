"""A window: what one preparation task hands to the encoder, as a one-row Arrow table.

Ray batches by rows only, and rows × bytes starves a GPU, so the unit that travels is a window of items closed by
bytes or tokens. All pixels of a window lie in one `large_binary`: stable type, no 2 GiB offset limit, read back as
views without a copy. Rejected items travel along, so that ids in = ids out at every seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.types import MediaKind, Modality, Prepared, Reject, Visual

__all__ = ["WINDOW_COLUMNS", "Window", "pack_window", "unpack_window", "window_bytes"]

_VISUAL = pa.struct(
    [
        pa.field("item", pa.int32()),  # index into the window's items
        pa.field("kind", pa.string()),
        pa.field("shape", pa.list_(pa.int32(), 4)),  # t, height_px, width_px, 3
        pa.field("grid_thw", pa.list_(pa.int32(), 3)),
    ]
)

WINDOW_COLUMNS = ("items", "input_ids", "position_ids", "visuals", "pixels", "prepare_s")

_OUTCOME_FIELDS = [
    pa.field("modality", pa.string()),
    pa.field("n_tokens", pa.int32()),
    pa.field("n_visual_tokens", pa.int32()),
    pa.field("n_frames", pa.int32()),
    pa.field("truncated", pa.bool_()),
    pa.field("content_hash", pa.string()),
    pa.field("code", pa.string()),
    pa.field("detail", pa.string()),
]


@dataclass(frozen=True, slots=True)
class Window:
    """A window read back.

    `facts`: one row an item: the work list's id, fingerprint, attempts and carried columns, and what preparation
    found out (modality … content_hash, or code and detail). `prepared` are the items without a code, and
    `rows[i]` (int64) is the row of `prepared[i]` in `facts`. Arrays are views of the table's buffers.
    """

    facts: pa.Table
    prepared: tuple[Prepared, ...]
    rows: NDArray[np.int64]
    prepare_s: float


def window_bytes(item: Prepared) -> int:
    """Bytes of `item`'s pixels."""
    return sum(visual.frames.nbytes for visual in item.visuals)


def pack_window(
    work: pa.Table, results: Sequence[Prepared | Reject], prepare_s: float, least_bytes: int = 0
) -> pa.Table:
    """One row holding every item of `work` with its result.

    `work`: the rows' id, fingerprint, attempts and carried columns, in the order of `results`; `prepare_s`:
    seconds that preparing them took. It weighs `least_bytes` or more.
    """
    ids = work.column("id").to_pylist()
    if ids != [result.id for result in results]:
        raise AssertionError("ids in differ from ids out. This is a bug.")
    facts = _with_facts(work, results)
    prepared = [(index, result) for index, result in enumerate(results) if isinstance(result, Prepared)]
    visuals = [(index, visual) for index, item in prepared for visual in item.visuals]
    items = pa.StructArray.from_arrays([column.combine_chunks() for column in facts.columns], fields=list(facts.schema))
    input_ids = _concatenate([item.input_ids for _, item in prepared])
    positions = _concatenate([item.position_ids.reshape(-1) for _, item in prepared])
    columns = [
        pa.ListArray.from_arrays(pa.array([0, len(items)], pa.int32()), items),
        pa.LargeListArray.from_arrays(pa.array([0, len(input_ids)], pa.int64()), pa.array(input_ids)),
        pa.LargeListArray.from_arrays(pa.array([0, len(positions)], pa.int64()), pa.array(positions)),
        pa.array([[_visual_row(index, visual) for index, visual in visuals]], pa.list_(_VISUAL)),
        _pixels([visual for _, visual in visuals], least_bytes),
        pa.array([prepare_s], pa.float64()),
    ]
    return pa.table(dict(zip(WINDOW_COLUMNS, columns, strict=True)))


def unpack_window(table: pa.Table) -> Window:
    """The inverse of `pack_window`; `table` has exactly one row."""
    if table.num_rows != 1:
        raise AssertionError(f"a window is one row, got {table.num_rows}. This is a bug.")
    # Not the pixels: a scalar of them is a copy of them.
    cells: dict[str, Any] = {name: table.column(name)[0] for name in WINDOW_COLUMNS if name != "pixels"}
    facts = pa.Table.from_struct_array(cells["items"].values)
    rows = np.flatnonzero(facts.column("code").is_null().to_numpy()).astype(np.int64)
    input_ids = cells["input_ids"].values.to_numpy()
    positions = cells["position_ids"].values.to_numpy()
    visuals = _visuals(cells["visuals"].as_py(), _only_buffer(table.column("pixels").chunk(0)))
    prepared: list[Prepared] = []
    start = 0
    for row, fact in zip(rows, facts.take(pa.array(rows)).to_pylist(), strict=True):
        end = start + fact["n_tokens"]
        prepared.append(
            Prepared(
                id=fact["id"],
                input_ids=input_ids[start:end],
                position_ids=positions[3 * start : 3 * end].reshape(3, -1),
                visuals=tuple(visuals.get(int(row), ())),
                modality=Modality(fact["modality"]),
                n_visual_tokens=fact["n_visual_tokens"],
                n_frames=fact["n_frames"],
                truncated=fact["truncated"],
                content_hash=fact["content_hash"],
            )
        )
        start = end
    return Window(facts, tuple(prepared), rows, float(cells["prepare_s"].as_py()))


def _with_facts(work: pa.Table, results: Sequence[Prepared | Reject]) -> pa.Table:
    rows = [_facts(result) for result in results]
    for field in _OUTCOME_FIELDS:
        work = work.append_column(field, pa.array([row.get(field.name) for row in rows], field.type))
    return work


def _facts(result: Prepared | Reject) -> dict[str, Any]:
    if isinstance(result, Reject):
        return {"code": str(result.code), "detail": result.detail}
    return {
        "modality": str(result.modality),
        "n_tokens": result.n_tokens,
        "n_visual_tokens": result.n_visual_tokens,
        "n_frames": result.n_frames,
        "truncated": result.truncated,
        "content_hash": result.content_hash,
    }


def _concatenate(arrays: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(arrays).astype(np.int32, copy=False) if arrays else np.empty(0, np.int32)


def _visual_row(item: int, visual: Visual) -> dict[str, Any]:
    return {
        "item": item,
        "kind": str(visual.kind),
        "shape": list(visual.frames.shape),
        "grid_thw": list(visual.grid_thw),
    }


def _pixels(visuals: list[Visual], least_bytes: int) -> pa.Array:
    used = sum(visual.frames.nbytes for visual in visuals)
    size = max(used, least_bytes)
    packed = np.empty(size, np.uint8)
    packed[used:] = 0  # what lay there before is nobody's business
    start = 0
    for visual in visuals:
        packed[start : start + visual.frames.nbytes] = visual.frames.reshape(-1)
        start += visual.frames.nbytes
    offsets = pa.py_buffer(np.array([0, size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(packed)])


def _only_buffer(column: pa.LargeBinaryArray) -> pa.Buffer:
    # A scalar's as_buffer() copies; slicing the array's own data buffer does not.
    _, offsets, data = column.buffers()
    start, end = np.frombuffer(offsets, np.int64)[column.offset : column.offset + 2]
    return data.slice(start, end - start)


def _visuals(rows: list[dict[str, Any]], pixels: pa.Buffer) -> dict[int, list[Visual]]:
    flat = np.frombuffer(pixels, np.uint8)
    found: dict[int, list[Visual]] = {}
    start = 0
    for row in rows:
        shape = tuple(row["shape"])
        end = start + int(np.prod(shape, dtype=np.int64))
        t, h, w = row["grid_thw"]
        visual = Visual(MediaKind(row["kind"]), flat[start:end].reshape(shape), (t, h, w))
        found.setdefault(row["item"], []).append(visual)
        start = end
    return found
