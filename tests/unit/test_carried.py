"""Carried columns over many nights: their types, their digests, and rows that follow the manifest."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.index.carried import CarriedDigests, carried_fields, settled, stored_carry, taken_over, takes_over
from pipeline.index.commits import FileEntry, Table
from pipeline.index.merge import plan_merge, run_merge
from pipeline.manifest.manifest import open_manifest
from pipeline.manifest.work import from_work_table
from pipeline.plan import Plan, make_plan
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import TARGET_BYTES, Kind, Row, part, rows_of
from tests.fixtures.manifests import job_config, write_jsonl

NULL, INT, FLOAT, TEXT, BOOL = pa.null(), pa.int64(), pa.float64(), pa.string(), pa.bool_()


@pytest.mark.parametrize(
    ("nights", "stored"),
    [
        ([NULL, INT, NULL, INT], [TEXT, INT, INT, INT]),
        ([INT, FLOAT, INT, NULL], [INT, FLOAT, FLOAT, FLOAT]),
        ([TEXT, NULL, TEXT], [TEXT, TEXT, TEXT]),
        ([TEXT, INT, TEXT], [TEXT, INT, TEXT]),
        ([BOOL, INT], [BOOL, INT]),
        ([pa.timestamp("s"), pa.timestamp("us"), pa.timestamp("s")], [pa.timestamp("s")] + [pa.timestamp("us")] * 2),
        ([pa.list_(NULL), pa.list_(INT)], [pa.list_(NULL), pa.list_(INT)]),
    ],
)
def test_a_column_keeps_the_widest_type_that_it_has_had(nights: list[pa.DataType], stored: list[pa.DataType]) -> None:
    found: tuple[pa.Field, ...] = ()
    for night, expected in zip(nights, stored, strict=True):
        found = settled([pa.field("c", night)], found)
        assert found == (pa.field("c", expected),)
        assert takes_over(night, expected) or night == NULL


def test_a_string_is_never_parsed_and_a_missing_column_is_null() -> None:
    rows = pa.record_batch({"c": ["7"], "n": [2**53 + 1]})
    assert taken_over(rows, pa.field("c", INT)).to_pylist() == [None]
    assert taken_over(rows, pa.field("gone", TEXT)).to_pylist() == [None]
    assert taken_over(rows, pa.field("n", FLOAT)).to_pylist() == [2.0**53]


VALUES = st.none() | st.integers(-9, 9)
ROW = st.fixed_dictionaries(
    {"a": VALUES, "b": st.none() | st.text(max_size=2), "c": st.none() | st.lists(VALUES, max_size=2)}
)
FIELDS = (pa.field("a", INT), pa.field("b", TEXT), pa.field("c", pa.list_(INT)))


@given(st.lists(ROW, min_size=1, max_size=8), st.lists(ROW, min_size=1, max_size=8))
def test_digests_are_equal_just_where_rows_are(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    digests = CarriedDigests(FIELDS)
    rows = one + other
    got = digests.of(pa.RecordBatch.from_pylist(rows, pa.schema(FIELDS))).to_pylist()
    for i, row in enumerate(rows):
        for k, again in enumerate(rows):
            assert (got[i] == got[k]) == (row == again)
    apart = [digests.of(pa.RecordBatch.from_pylist([row], pa.schema(FIELDS))).to_pylist()[0] for row in rows]
    assert got == apart


def test_digests_follow_values_through_a_wider_type() -> None:
    wide = CarriedDigests([pa.field("c", FLOAT)])
    assert wide.of(pa.record_batch({"c": pa.array([1, None], INT)})) == wide.of(pa.record_batch({"c": [1.0, None]}))


@pytest.mark.parametrize(
    "column",
    [pa.array([0.5, None], pa.float16()), pa.array([decimal.Decimal("1.5"), None], pa.decimal256(60, 1))],
    ids=str,
)
def test_types_that_duckdb_lacks_have_digests_too(column: pa.Array) -> None:
    digests = CarriedDigests([pa.field("c", column.type)])
    rows = pa.record_batch({"c": column})
    first, second = digests.of(rows).to_pylist()
    assert first != second
    assert digests.of(rows).to_pylist() == [first, second]


def test_nothing_carried_has_no_digest() -> None:
    assert CarriedDigests(()).of(pa.record_batch({"id": ["a", "b"]})).to_pylist() == [None, None]


Rows = list[dict[str, Any]]


class Lake:
    """An index that follows a manifest night by night; rows are embedded by `index_cases.part`."""

    def __init__(self, folder: Path, carry: list[str]) -> None:
        self.path = folder / "m.jsonl"
        self.out = folder / "out"
        self.carry = carry
        self.live: tuple[FileEntry, ...] = ()
        self.parts: list[FileEntry] = []
        self.run = 0

    @property
    def store(self) -> Store:
        return open_store(str(self.out))

    @property
    def config(self) -> Config:
        return job_config(self.path, self.out, manifest={"path": str(self.path), "carry": self.carry})

    def plan(self, rows: Rows) -> Plan:
        write_jsonl(self.path, rows)
        self.run += 1
        manifest = open_manifest(self.config.manifest, {})
        manifest = manifest.with_carry(settled(manifest.carry, stored_carry(self.store, self.live)))
        return make_plan(
            self.config, manifest, self.store, run_id=f"night{self.run}", compute_fingerprint="c",
            live=self.live, parts=self.parts,
        )  # fmt: skip

    def embed(self, plan: Plan, what: str = "vector") -> list[FileEntry]:
        kind = Kind(plan.id_type, carry=plan.carry)
        written: list[FileEntry] = []
        for path in plan.work_paths:
            with self.store.open_input(path) as file:
                table = pa.parquet.read_table(file)
            labels = table.column("carry.label").to_pylist() if "carry.label" in table.column_names else None
            rows = [
                Row(item.id, item.fingerprint, what, label=labels[n] if labels else None)
                for n, item in enumerate(from_work_table(table))
            ]
            written += part(self.store, rows, plan.run_id, kind)
        return written

    def night(self, rows: Rows, what: str = "vector") -> Plan:
        plan = self.plan(rows)
        merge = plan_merge(
            self.store, plan.items_path, self.live, [*self.parts, *self.embed(plan, what)],
            schemas=Kind(plan.id_type, carry=plan.carry).schemas, run_id=plan.run_id, target_bytes=TARGET_BYTES,
            carried_path=plan.carried_path,
        )  # fmt: skip
        assert merge.census.missing == 0
        self.live = merge.live_with([run_merge(self.store, task) for task in merge.tasks])
        self.parts = []
        return plan

    @property
    def said(self) -> dict[str, Any]:
        return {row["id"]: row.get("label") for row in rows_of(self.store, self.live, Table.VECTORS)}


def items(**labels: Any) -> Rows:
    return [{"id": id_, "text": id_, "label": label} for id_, label in labels.items()]


def test_rows_follow_the_manifest_without_being_embedded_again(tmp_path: Path) -> None:
    lake = Lake(tmp_path, ["label"])
    for labels in (
        {"a": None, "b": None},
        {"a": 1, "b": None},
        {"a": 1, "b": 2.5},
        {"a": 1, "b": 7},
        {"a": None, "b": None},
        {"a": "text", "b": None},
        {"a": [1, 2], "b": []},
        {"a": {"x": 1}, "b": None},
    ):
        plan = lake.night(items(**labels))
        assert lake.said == labels
        assert plan.counts.to_do == (2 if lake.run == 1 else 0)
    again = lake.plan(items(a={"x": 1}, b=None))
    assert (again.counts.carried, again.counts.unchanged, again.carried_path) == (0, 2, None)


def test_a_column_that_comes_and_goes(tmp_path: Path) -> None:
    lake = Lake(tmp_path, [])
    lake.night(items(a="x", b="y"))
    lake.carry = ["label"]
    assert lake.night(items(a="x", b=None)).counts.carried == 1
    assert lake.said == {"a": "x", "b": None}
    lake.carry = []
    assert lake.night(items(a="x", b="y")).counts.carried == 0
    assert stored_carry(lake.store, lake.live) == ()


def test_parts_of_a_killed_run_get_the_values_of_the_night_that_merges_them(tmp_path: Path) -> None:
    lake = Lake(tmp_path, ["label"])
    lake.parts = lake.embed(lake.plan(items(a="old", b="same")))
    plan = lake.night(items(a="new", b="same", c="c"))
    assert (plan.counts.resumed, plan.counts.to_do) == (2, 1)
    assert lake.said == {"a": "new", "b": "same", "c": "c"}


def test_a_vector_that_outlives_a_failure_carries_the_present_values(tmp_path: Path) -> None:
    lake = Lake(tmp_path, ["label"])
    lake.night(items(a="x", b="y"))
    changed = [{"id": "a", "text": "other", "label": "new"}, *items(b="y")]
    lake.night(changed, what="retry")
    assert lake.said == {"a": "new", "b": "y"}
    changed[0]["label"] = "newer"
    assert lake.night(changed, what="retry").counts.retryable == 1
    assert lake.said == {"a": "newer", "b": "y"}


def test_the_carried_columns_are_those_behind_our_own() -> None:
    kind = Kind(carry=(pa.field("z", INT), pa.field("y", TEXT)))
    assert carried_fields(kind.schemas[Table.VECTORS]) == kind.carry
    assert carried_fields(kind.schemas[Table.REJECTS]) == ()
