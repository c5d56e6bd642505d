from __future__ import annotations

import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import VectorSpec
from pipeline.errors import IndexCorruptError, OwnershipError
from pipeline.index.carried_values import GROUP_ROWS
from pipeline.index.commits import FileEntry, Table
from pipeline.index.digest import ids_digest
from pipeline.index.merge import MergePlan, MergeTask, outstanding, run_merge
from pipeline.index.parquet import open_parquet
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import SPECS, Kind, Row, as_rows, part, plan, put_items, rows_of

Said = dict[tuple[str, str], tuple[str, int, bool]]


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _merged(store: Store, planned: MergePlan) -> tuple[FileEntry, ...]:
    return planned.live_with([run_merge(store, task) for task in planned.tasks])


def test_parts_of_a_first_run_become_one_file_a_table(store: Store) -> None:
    parts = part(store, [Row("a", mark=1), Row("b", what="fatal", mark=2)]) + part(store, [Row("c", mark=3)])
    planned = plan(store, dict.fromkeys("abc", "f1"), [], parts)
    task = planned.tasks[0]
    assert pickle.loads(pickle.dumps(task)) == task
    live = _merged(store, planned)
    assert sorted((entry.table.value, entry.rows) for entry in live) == [("rejects", 1), ("vectors", 2)]
    assert as_rows(store, live) == {
        ("a", "vectors"): ("f1", 1, False),
        ("b", "rejects"): ("f1", 2, False),
        ("c", "vectors"): ("f1", 3, False),
    }
    census = planned.census
    assert (census.items, census.vectors, census.rejects, census.missing) == (3, 2, 1, 0)
    assert census.ids_digest == ids_digest("abc")
    assert planned.removed == ()


def test_of_duplicates_the_vector_wins_then_the_first(local: Store) -> None:
    rows = [
        [Row("a", what="retry", mark=1), Row("b", mark=1), Row("c", "old", mark=1)],
        [Row("a", mark=2), Row("b", mark=2), Row("c", mark=2), Row("gone", mark=2)],
        [Row("a", mark=3), Row("c", mark=3)],
    ]
    parts = [entry for batch in rows for entry in part(local, batch)]
    live = _merged(local, plan(local, dict.fromkeys("abc", "f1"), [], parts))
    assert as_rows(local, live) == {
        (each, "vectors"): ("f1", mark, False) for each, mark in zip("abc", (2, 1, 2), strict=True)
    }


def test_a_changed_item_that_may_succeed_later_keeps_its_vector(local: Store) -> None:
    live = part(local, [Row("a", mark=1), Row("b", mark=1), Row("c", mark=1)], "night1")
    parts = part(local, [Row("a", "f2", "retry", 2), Row("b", "f2", "fatal", 2), Row("c", "f2", mark=2)], "night2")
    items = {"a": "f2", "b": "f2", "c": "f2"}
    planned = plan(local, items, live, parts)
    second = _merged(local, planned)
    assert as_rows(local, second) == {
        ("a", "vectors"): ("f1", 1, False),
        ("a", "rejects"): ("f2", 2, True),
        ("b", "rejects"): ("f2", 2, False),
        ("c", "vectors"): ("f2", 2, False),
    }
    assert planned.removed == (live[0].path,)
    assert (planned.census.vectors, planned.census.rejects, planned.census.kept_previous) == (2, 2, 1)

    nothing = plan(local, items, second, [])
    assert nothing.changes_nothing

    retried = _merged(local, plan(local, items, second, part(local, [Row("a", "f2", "retry", 3)], "night3")))
    assert as_rows(local, retried)["a", "vectors"] == ("f1", 1, False)
    assert as_rows(local, retried)["a", "rejects"] == ("f2", 3, True)

    given_up = _merged(local, plan(local, items, second, part(local, [Row("a", "f2", "fatal", 4)], "night4")))
    assert ("a", "vectors") not in as_rows(local, given_up)
    assert as_rows(local, given_up)["a", "rejects"] == ("f2", 4, False)

    cured = _merged(local, plan(local, items, second, part(local, [Row("a", "f2", mark=5)], "night5")))
    assert as_rows(local, cured)["a", "vectors"] == ("f2", 5, False)
    assert ("a", "rejects") not in as_rows(local, cured)

    undone = _merged(local, plan(local, items | {"a": "f1"}, second, []))
    assert as_rows(local, undone)["a", "vectors"] == ("f1", 1, False)
    assert ("a", "rejects") not in as_rows(local, undone)


def test_items_without_an_outcome_are_counted_and_listed(local: Store) -> None:
    live = part(local, [Row("a"), Row("b"), Row("c", what="fatal")])
    items = {"a": "f1", "b": "f2", "c": "f1", **{f"x{n}": "f1" for n in range(8)}}
    planned = plan(local, items, live, [])
    assert planned.census.missing == 9
    assert planned.census.examples == ("b", "x0", "x1", "x2", "x3")
    left = outstanding(local, put_items(local, items), live, part(local, [Row("x0"), Row("x1", "f9")]))
    assert left.column_names == ["id", "fingerprint"]
    assert left["id"].to_pylist() == ["b", *(f"x{n}" for n in range(1, 8))]


def test_outstanding_of_a_work_list_looks_at_parts_alone(store: Store) -> None:
    live = part(store, [Row("a", what="retry")])
    work = put_items(store, {"a": "f1", "b": "f1"}, "_work/run/work.parquet")
    assert outstanding(store, work, [], part(store, [Row("b")]))["id"].to_pylist() == ["a"]
    assert outstanding(store, work, live, part(store, [Row("b")])).num_rows == 0
    assert outstanding(store, "_work/run", live, []).num_rows == 1


def test_a_full_file_that_loses_nothing_is_left_alone(local: Store) -> None:
    big = part(local, [Row(f"a{n}", mark=n) for n in range(500)])
    small = part(local, [Row("b", mark=1)]) + part(local, [Row("c", mark=2)])
    items = {f"a{n}": "f1" for n in range(500)} | {"b": "f1", "c": "f1"}
    planned = plan(local, items, big, small, target_bytes=2 * big[0].bytes)
    assert planned.untouched == tuple(big)
    assert [[each.entry for each in task.inputs] for task in planned.tasks] == [small]
    assert planned.removed == ()
    live = _merged(local, planned)
    assert planned.added(live[1:]) == live[1:]
    lossy = plan(local, items | {"a7": "f2"}, live, part(local, [Row("a7", "f2")]), target_bytes=2 * big[0].bytes)
    assert big[0].path in lossy.removed
    assert len(as_rows(local, _merged(local, lossy))) == 502


def test_a_part_of_full_size_is_adopted_as_it_is(local: Store) -> None:
    full = part(local, [Row(f"a{n}", mark=n) for n in range(500)])
    planned = plan(local, {f"a{n}": "f1" for n in range(500)}, [], full, target_bytes=full[0].bytes)
    assert (planned.tasks, planned.untouched, planned.added(())) == ((), tuple(full), tuple(full))
    assert not planned.changes_nothing


def test_small_live_files_alone_are_no_reason_to_write(local: Store) -> None:
    live = part(local, [Row("a")]) + part(local, [Row("b")]) + part(local, [Row("c", what="fatal")])
    planned = plan(local, dict.fromkeys("abc", "f1"), live, [])
    assert planned.changes_nothing
    assert planned.live_with(()) == tuple(live)


def test_groups_are_filled_to_the_target(local: Store) -> None:
    parts = [entry for n in range(6) for entry in part(local, [Row(f"{n}-{m}") for m in range(20)])]
    items = {f"{n}-{m}": "f1" for n in range(6) for m in range(20)}
    planned = plan(local, items, [], parts, target_bytes=int(parts[0].bytes * 2.5))
    assert [len(task.inputs) for task in planned.tasks] == [2, 2, 2]


def test_a_file_of_which_nothing_is_kept_just_goes(local: Store) -> None:
    live = part(local, [Row("a")]) + part(local, [Row("b")])
    planned = plan(local, {"b": "f1"}, live, [])
    assert (planned.tasks, planned.removed, planned.untouched) == ((), (live[0].path,), (live[1],))
    assert not planned.changes_nothing


def test_integer_ids_stay_integers(local: Store) -> None:
    kind = Kind(id_type=pa.int64())
    parts = part(local, [Row("7", mark=1), Row("8", what="fatal", mark=2)], kind=kind) + part(
        local, [Row("9", mark=3)], kind=kind
    )
    live = _merged(local, plan(local, dict.fromkeys("789", "f1"), [], parts, kind=kind))
    assert [row["id"] for row in rows_of(local, live, Table.VECTORS)] == [7, 9]
    assert [row["id"] for row in rows_of(local, live, Table.REJECTS)] == [8]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind(id_type=pa.int64()), "column id is string, with this job it is int64"),
        (Kind(specs=(VectorSpec(name="vector", dim=8, dtype="int8"), SPECS[1])), "column vector is"),
        (Kind(specs=(VectorSpec(name="vector", dim=32, dtype="binary"), SPECS[1])), "column vector is"),
        (Kind(specs=SPECS[:1]), "column half is .*, with this job it is not there"),
        (Kind(specs=(*SPECS, VectorSpec(name="more"))), "column more is not there"),
    ],
)
def test_another_kind_of_index_is_refused(local: Store, kind: Kind, says: str) -> None:
    live = part(local, [Row("1")])
    with pytest.raises(OwnershipError, match=says):
        plan(local, {"1": "f1"}, live, part(local, [Row("1")], kind=kind), kind=kind)


def test_carried_columns_are_brought_together(local: Store) -> None:
    old = Kind(carry=(pa.field("label", pa.string()),))
    new = Kind(carry=(pa.field("score", pa.int64()), pa.field("label", pa.large_string())))
    live = part(local, [Row("a", label="x")], kind=old)
    parts = part(local, [Row("b", label="y")], kind=new)
    planned = plan(local, dict.fromkeys("ab", "f1"), live, parts, kind=new)
    merged = _merged(local, planned)
    with open_parquet(local, merged[0].path) as parquet:
        assert parquet.schema_arrow.names[-2:] == ["score", "label"]
    found = {row["id"]: (row["score"], row["label"]) for row in rows_of(local, merged, Table.VECTORS)}
    assert found == {"a": (None, "x"), "b": (None, "y")}


def test_carried_values_of_another_type_come_from_the_manifest(local: Store) -> None:
    live = part(local, [Row("a", label="no number"), Row("b", label="7"), Row("c", "f0", label="8")])
    kind = Kind(carry=(pa.field("label", pa.int64()),))
    parts = part(local, [Row("d")], kind=kind) + part(local, [Row("c", what="retry")], kind=kind)
    items = dict.fromkeys("abcd", "f1")
    planned = plan(local, items, live, parts, kind=kind, carried={"a": 1, "c": 3})
    merged = _merged(local, planned)
    found = {row["id"]: row["label"] for row in rows_of(local, merged, Table.VECTORS)}
    assert found == {"a": 1, "b": None, "c": 3, "d": None}, "a string is never parsed: b's value would be listed too"


def test_a_large_file_is_rewritten_for_its_carried_values_or_columns_alone(local: Store) -> None:
    rows = [Row(f"i{n:05}", mark=n, label="old") for n in range(3 * GROUP_ROWS // 2)]
    live = part(local, rows)
    items = {row.id: "f1" for row in rows}
    assert plan(local, items, live, [], target_bytes=1).changes_nothing
    ids = [rows[5].id, rows[GROUP_ROWS + 5].id, "unknown"]
    first = plan(local, items, live, [], target_bytes=1, carried=dict.fromkeys(ids, "new"))
    assert first.tasks[0].inputs[0].carried == (0,)
    merged = _merged(local, first)
    found = {row["id"]: row for row in rows_of(local, merged, Table.VECTORS)}
    assert {id_ for id_, row in found.items() if row["label"] != "old"} == set(ids[:2])
    assert [row["n_tokens"] for row in found.values()] == [row.mark for row in rows]
    every = plan(local, items, live, [], target_bytes=1, carried=dict.fromkeys(items, "new"))
    assert every.tasks[0].inputs[0].carried == (0, 1)
    assert {row["label"] for row in rows_of(local, _merged(local, every), Table.VECTORS)} == {"new"}
    without = Kind(carry=())
    planned = plan(local, items, live, [], target_bytes=1, kind=without)
    [entry] = _merged(local, planned)
    with open_parquet(local, entry.path) as parquet:
        assert parquet.schema_arrow.names[-1] == "content_hash"
    assert planned.removed == (live[0].path,)


def test_an_input_that_is_not_what_the_log_says_is_refused(local: Store) -> None:
    parts = part(local, [Row("a")]) + part(local, [Row("b")])
    task = plan(local, dict.fromkeys("ab", "f1"), [], parts).tasks[0]
    local.put(parts[0].path, local.read(part(local, [Row("c"), Row("d")])[0].path))
    with pytest.raises(IndexCorruptError, match="holds 2 rows, the log says 1"):
        run_merge(local, task)


def test_a_merge_keeps_rows_across_row_groups(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.index.parquet._ROW_GROUP_BYTES", 4096)
    monkeypatch.setattr("pipeline.index.parquet._PIECE_ROWS", 16)
    rows = [Row(f"i{n:03}", mark=n, what="vector" if n % 3 else "retry") for n in range(400)]
    parts = part(local, rows[:300]) + part(local, rows[300:])
    with open_parquet(local, parts[0].path) as parquet:
        assert parquet.num_row_groups > 3
    items = {row.id: "f1" for row in rows if row.mark % 7}
    live = _merged(local, plan(local, items, [], parts))
    assert as_rows(local, live) == {
        (row.id, "vectors" if row.mark % 3 else "rejects"): ("f1", row.mark, False) for row in rows if row.mark % 7
    }


# --- random histories against a dictionary ---------------------------------------------------------------------

IDS = "abcdef"
_WHATS = st.sampled_from(["vector", "retry", "fatal"])
_PRINTS = st.sampled_from(["f1", "f2"])
_OUTCOME = st.tuples(st.sampled_from(IDS), _PRINTS, _WHATS)


@dataclass(frozen=True)
class Night:
    items: dict[str, str]
    batches: list[list[tuple[str, str, str]]]


_NIGHT = st.builds(
    Night,
    st.dictionaries(st.sampled_from(IDS), _PRINTS, max_size=6),
    st.lists(st.lists(_OUTCOME, min_size=1, max_size=5), max_size=3),
)


def _oracle(items: dict[str, str], live: Said, parts: Sequence[Row]) -> tuple[Said, set[str]]:
    """The rule, item by item, over dictionaries. Rows of `parts` stand in commit order."""
    said: Said = {}
    missing: set[str] = set()
    for each, now in items.items():
        current = [row for row in parts if row.id == each and row.fingerprint == now]
        vector, reject = live.get((each, "vectors")), live.get((each, "rejects"))
        fresh = [row for row in current if row.what == "vector"]
        if fresh:
            said[each, "vectors"] = (now, fresh[0].mark, False)
        elif current or (reject and reject[0] == now and not (vector and vector[0] == now)):
            mark = current[0].mark if current else reject[1] if reject else 0
            keep = RETRYABLE[mark] and vector is not None
            said[each, "rejects"] = (now, mark, keep)
            if keep and vector:
                said[each, "vectors"] = vector
        elif vector and vector[0] == now:
            said[each, "vectors"] = vector
        else:
            missing.add(each)
    return said, missing


RETRYABLE: dict[int, bool] = {}


@settings(max_examples=40)
@given(st.lists(_NIGHT, min_size=1, max_size=3), st.sampled_from([1, 6000, 1 << 20]))
def test_random_histories_merge_as_the_rule_says(nights: list[Night], target_bytes: int) -> None:
    RETRYABLE.clear()
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        live: tuple[FileEntry, ...] = ()
        said: Said = {}
        for night in nights:
            rows: list[Row] = []
            parts: list[FileEntry] = []
            for batch in night.batches:
                first = len(RETRYABLE)
                made = [Row(*outcome, mark=first + n) for n, outcome in enumerate(batch)]
                RETRYABLE.update({row.mark: row.what == "retry" for row in made})
                rows += made
                parts += part(store, made)
            planned = plan(store, night.items, live, parts, target_bytes=target_bytes)
            merged = [run_merge(store, task) for task in planned.tasks]
            said, missing = _oracle(night.items, said, rows)
            before, live = live, planned.live_with(merged)
            assert as_rows(store, live) == said
            _check_plan(planned, before, live, said, missing)


def _check_plan(
    planned: MergePlan, before: Sequence[FileEntry], live: Sequence[FileEntry], said: Said, missing: set[str]
) -> None:
    census = planned.census
    assert census.missing == len(missing)
    assert set(census.examples) <= missing
    assert (census.vectors, census.rejects) == tuple(
        sum(table == name for _, table in said) for name in ("vectors", "rejects")
    )
    assert census.kept_previous == sum(kept for _, _, kept in said.values())
    paths = {entry.path for entry in before}
    after = (paths - set(planned.removed)) | {entry.path for entry in live if entry.path not in paths}
    assert after == {entry.path for entry in live}
    assert all(isinstance(task, MergeTask) and task.inputs for task in planned.tasks)
