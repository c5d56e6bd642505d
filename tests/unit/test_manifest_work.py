"""The work list holds items without loss."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest.work import from_work_table, to_work_table
from pipeline.schema import work_schema
from pipeline.types import Media, MediaKind, MediaRef, WorkItem

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MARKS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple)
REF = st.builds(MediaRef, st.none() | TEXT, TEXT, st.integers(0, 99), MARKS)
MEDIA = st.builds(Media, st.sampled_from(MediaKind), st.lists(REF, max_size=3).map(tuple))
ITEM = st.builds(
    WorkItem,
    id=TEXT,
    texts=st.lists(TEXT, max_size=3).map(tuple),
    media=st.lists(MEDIA, max_size=3).map(tuple),
    instruction=st.none() | TEXT,
    fps=st.none() | st.floats(0.01, 100),
    max_frames=st.none() | st.integers(2, 1000),
    fingerprint=TEXT,
    manifest_file=TEXT,
    manifest_row=st.integers(0, 2**40),
    attempts=st.integers(0, 9),
)  # fmt: skip


@given(st.lists(ITEM, max_size=5))
def test_round_trip(items: list[WorkItem]) -> None:
    assert from_work_table(to_work_table(items)) == items


def test_carried_columns_travel_prefixed() -> None:
    item = WorkItem("1", (), (), None, None, None, "f", "m", 0, 0)
    carry = pa.table({"id2": [5], "texts": ["shadow"]})
    table = to_work_table([item], carry)
    assert table.schema == work_schema(tuple(carry.schema))
    assert table.column("carry.texts").to_pylist() == ["shadow"]
    assert from_work_table(table) == [item]
