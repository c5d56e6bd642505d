"""Carried columns over many nights: their types, their digests, and rows that follow the manifest."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Config
from pipeline.errors import ManifestError
from pipeline.index.carried import (
    CarriedDigests,
    carried_fields,
    has_other_columns,
    settled,
    stored_carry,
    taken_over,
    takes_over,
)
from pipeline.index.commits import FileEntry, Table
from pipeline.index.merge import plan_merge, run_merge
from pipeline.index.snapshot import carry_info
from pipeline.manifest.manifest import open_manifest
from pipeline.manifest.work import from_work_table
from pipeline.plan import Plan, make_plan
from pipeline.run import check_carry
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import TARGET_BYTES, Kind, Row, part, rows_of
from tests.fixtures.manifests import job_config, write_jsonl, write_parquet

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


INT64_TYPES = [
    pa.duration("ns"),
    pa.duration("s"),
    pa.timestamp("ms", "UTC"),
    pa.timestamp("us", "Nowhere/Known"),
    pa.time64("ns"),
]


@pytest.mark.parametrize("kind", INT64_TYPES, ids=str)
def test_times_differ_in_their_last_digit_and_in_any_year(kind: pa.DataType) -> None:
    times = pa.array([1000, 1001, 2**62, None]).cast(kind)
    nested = pa.StructArray.from_arrays([pa.array([[each] for each in range(4)]), times], ["a", "b"])
    for column in (times, pa.ListArray.from_arrays([0, 1, 2, 3, 4], nested)):
        found = CarriedDigests([pa.field("c", column.type)]).of(pa.record_batch({"c": column}))
        assert len(set(found.to_pylist())) == 4
        apart = CarriedDigests([pa.field("c", column.type)]).of(pa.record_batch({"c": column}).slice(2, 1))
        assert apart.to_pylist() == found.to_pylist()[2:3]


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
        if rows:
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


class ParquetLake(Lake):
    """The same with a Parquet manifest, whose nights are columns."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ["label"])
        self.path = folder / "m.parquet"

    def follow(self, label: pa.Array) -> Plan:
        ids = [str(n) for n in range(len(label))]
        write_parquet(self.path, {"id": ids, "text": ids, "label": label})
        return self.night([])


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


NEVER = datetime.datetime(9999, 12, 31)
STRICT = pa.struct([pa.field("x", INT, nullable=False)])


def test_no_type_of_a_night_locks_the_next_one_out(tmp_path: Path) -> None:
    lake = ParquetLake(tmp_path)
    for label in (
        pa.array([2**62, None]),
        pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
        pa.array([2**62, None]),
        pa.array([2**64 - 1, None], pa.uint64()),
        pa.array([0.5, None], pa.float16()),
        pa.array([decimal.Decimal("1.50"), None], pa.decimal128(10, 2)),
        pa.array([1, None]).cast(pa.timestamp("ns")),
        pa.array([NEVER, None], pa.timestamp("us")),
        pa.array([{"x": 1}, None], STRICT),
        pa.array([None, None], STRICT),
        pa.array(["text", None]),
        pa.array([b"text", None]),
        pa.array(["text", None]).dictionary_encode(),
        pa.array([[("k", 1)], None], pa.map_(TEXT, INT)),
    ):
        lake.follow(label)
        assert [lake.said["0"], lake.said["1"]] == label.to_pylist()


def test_a_night_of_empty_structs_fits_into_the_stored_one(tmp_path: Path) -> None:
    lake = Lake(tmp_path, ["label"])
    lake.night(items(a={"x": 1}, b=None))
    lake.night(items(a={}, b={}))
    assert lake.said == {"a": {"x": None}, "b": {"x": None}}


def test_a_struct_that_never_had_a_member_is_refused() -> None:
    check_carry([pa.field("fine", pa.struct([("x", INT)]))], "m.jsonl")
    with pytest.raises(ManifestError, match=r"'meta' \(carry\) of the manifest m\.jsonl is list<.*struct<>>"):
        check_carry([pa.field("meta", pa.list_(pa.struct([])))], "m.jsonl")


def test_extension_types_are_carried_as_what_they_store(tmp_path: Path) -> None:
    lake = ParquetLake(tmp_path)
    lake.follow(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))))
    assert stored_carry(lake.store, lake.live) == (pa.field("label", pa.binary(16)),)
    assert lake.said == {"0": b"0" * 16, "1": None}


@pytest.mark.parametrize("kind", [pa.list_(TEXT), pa.list_(TEXT, 2), pa.map_(TEXT, pa.list_(INT))], ids=str)
def test_what_snapshots_record_of_types_is_what_files_say(tmp_path: Path, kind: pa.DataType) -> None:
    lake = ParquetLake(tmp_path)
    plan = lake.follow(pa.nulls(2, kind))
    assert carry_info(stored_carry(lake.store, lake.live)) == carry_info(plan.carry)
    assert carry_info([pa.field("label", kind)]) == carry_info(plan.carry)
    assert not has_other_columns(lake.store, lake.live, plan.carry)
    assert has_other_columns(lake.store, lake.live, [pa.field("label", INT)])


def test_an_index_without_vectors_has_no_columns_to_rewrite(tmp_path: Path) -> None:
    lake = Lake(tmp_path, ["label"])
    lake.night(items(a=None), what="fatal")
    assert not has_other_columns(lake.store, lake.live, lake.plan(items(a=1)).carry)


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
