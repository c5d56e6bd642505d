"""Items of equal content: one outcome, a row for each of them."""

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

from pipeline.index.commits import FileEntry, Table
from pipeline.index.merge import MergePlan, run_merge
from pipeline.index.parquet import open_parquet
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import CODES, Kind, Row, as_rows, changes_of, part, plan, rows_of


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _merged(store: Store, planned: MergePlan) -> tuple[FileEntry, ...]:
    return planned.live_with([run_merge(store, task) for task in planned.tasks])


def test_followers_get_the_leaders_row_with_their_own_carried_values(store: Store) -> None:
    parts = part(store, [Row("a", mark=1, label="A"), Row("b", "f2", "fatal", 2)])
    items = {"a": "f1", "a2": "f1", "a3": "f1", "b": "f2", "b2": "f2"}
    planned = plan(store, items, [], parts, shared=["f1", "f2"], carried={"a2": "A2", "a3": "A3"})
    assert pickle.loads(pickle.dumps(planned.tasks)) == planned.tasks
    live = _merged(store, planned)
    labels = {row["id"]: row["label"] for row in rows_of(store, live, Table.VECTORS)}
    assert labels == {"a": "A", "a2": "A2", "a3": "A3"}
    assert as_rows(store, live) == {
        **{(each, "vectors"): ("f1", 1, False) for each in ("a", "a2", "a3")},
        **{(each, "rejects"): ("f2", 2, False) for each in ("b", "b2")},
    }
    assert (planned.census.vectors, planned.census.rejects, planned.census.missing) == (3, 2, 0)
    assert changes_of(store, "run1") == dict.fromkeys(("a", "a2", "a3"), "insert")


def test_a_leaders_place_says_nothing_final_of_its_followers(local: Store) -> None:
    kept = part(local, [Row("a2", "f0", mark=7)])
    parts = part(local, [Row("a", "f1", "gone", 1), Row("b", "f2", "away", 2), Row("c", "f3", "fatal", 3)])
    items = {"a": "f1", "a2": "f1", "b": "f2", "b2": "f2", "c": "f3", "c2": "f3"}
    live = _merged(local, plan(local, items, kept, parts, shared=["f1", "f2", "f3"]))
    rejects = {row["id"]: row for row in rows_of(local, live, Table.REJECTS)}
    told = {id_: (row["code"], row["retryable"], row["attempts"], row["detail"]) for id_, row in rejects.items()}
    assert told == {
        "a": ("NOT_FOUND", False, 1, "1"), "a2": ("NOT_FOUND", True, 0, "item 'a' of equal content: 1"),
        "b": ("FETCH_FAILED", True, 1, "2"), "b2": ("FETCH_FAILED", True, 0, "item 'b' of equal content: 2"),
        "c": ("IMAGE_UNREADABLE", False, 1, "3"), "c2": ("IMAGE_UNREADABLE", False, 1, "3"),
    }  # fmt: skip
    assert as_rows(local, live)["a2", "vectors"] == ("f0", 7, False), "its own place may be fine: what it had stays"
    assert rejects["a2"]["kept_previous"]
    # The next night a2's place is tried, and it is gone as well: neither is told of the other's again.
    again = part(local, [Row("a2", "f1", "gone", 4)], "run2")
    later = _merged(local, plan(local, items | {"a3": "f1"}, live, again, shared=["f1", "f2", "f3"], run_id="run2"))
    found = {row["id"]: (row["retryable"], row["detail"]) for row in rows_of(local, later, Table.REJECTS)}
    assert (found["a"], found["a2"]) == ((False, "1"), (False, "4"))
    assert found["a3"] == (True, "item 'a' of equal content: 1")


def test_a_fingerprint_that_is_not_shared_says_nothing_of_others(local: Store) -> None:
    planned = plan(local, {"a": "f1", "b": "f1"}, [], part(local, [Row("a")]), shared=["f2"])
    assert planned.census.examples == ("b",)


def test_a_renamed_item_keeps_its_vector_and_a_full_file_is_not_rewritten_for_a_copy(local: Store) -> None:
    big = part(local, [Row(f"a{n}", f"f{n}", mark=n) for n in range(500)])
    items = {f"a{n}": f"f{n}" for n in range(500)} | {"again": "f7"}
    added = plan(local, items, big, [], shared=["f7"], target_bytes=2 * big[0].bytes)
    assert (added.untouched, added.removed) == (tuple(big), ())
    assert [entry.rows for entry in _merged(local, added)] == [500, 1]
    del items["a7"]
    renamed = plan(local, items, big, [], shared=["f7"], target_bytes=2 * big[0].bytes)
    assert as_rows(local, _merged(local, renamed))["again", "vectors"] == ("f7", 7, False)
    assert changes_of(local, "run1") == {"a7": "delete", "again": "insert"}


def test_a_row_copied_often_is_cut_into_files_of_the_target_size(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.index.copies._TAKEN_ROWS", 64)
    monkeypatch.setattr("pipeline.index.copies._LIST_GROUP_ROWS", 100)
    kind = Kind(id_type=pa.int64())
    parts = part(local, [Row(str(n), f"f{n}", mark=n) for n in range(20)], kind=kind)
    items = {str(n): f"f{n}" for n in range(20)} | {str(n): "f3" for n in range(20, 1020)}
    labels = {str(n): f"label {n}" for n in range(20, 1020)}
    target_bytes = parts[0].bytes * 5
    planned = plan(local, items, [], parts, shared=["f3"], target_bytes=target_bytes, carried=labels, kind=kind)
    assert len(planned.tasks) >= 1000 // 100
    live = _merged(local, planned)
    said = as_rows(local, live)
    assert len(said) == 1020
    assert {said[str(n), "vectors"] for n in range(20, 1020)} == {("f3", 3, False)}
    found = {row["id"]: row["label"] for row in rows_of(local, live, Table.VECTORS)}
    assert all(found[n] == f"label {n}" for n in range(20, 1020))
    for entry in live:
        with open_parquet(local, entry.path) as parquet:
            assert parquet.schema_arrow.field("id").type == pa.int64()


# --- random histories against dictionaries ----------------------------------------------------------------------

IDS = "abcdef"
OF_PLACE = ("away", "gone")
_PRINTS = st.sampled_from(["f1", "f2", "f3"])
_OUTCOME = st.tuples(st.sampled_from(IDS), _PRINTS, st.sampled_from(["vector", *CODES]))
_BATCH = st.lists(_OUTCOME, min_size=1, max_size=5, unique_by=lambda outcome: outcome[0])


@dataclass(frozen=True)
class Night:
    items: dict[str, str]
    shared: set[str]
    batches: list[list[tuple[str, str, str]]]


_NIGHT = st.builds(
    Night, st.dictionaries(st.sampled_from(IDS), _PRINTS, max_size=6), st.sets(_PRINTS), st.lists(_BATCH, max_size=3)
)


Said = dict[tuple[str, str], tuple[str, int, bool]]


def _may_win(id_: str, now: str, live: Sequence[Row], parts: Sequence[Row], *, shared: bool) -> list[Row]:
    """The rows of which one is the item's outcome: several only where live rows of others are equally good."""

    def of(rows: Sequence[Row], *, mine: bool, vector: bool, place: bool | None = None) -> list[Row]:
        current = [row for row in rows if row.fingerprint == now and (row.what == "vector") == vector]
        theirs = [row for row in current if (row.id == id_) == mine and (mine or shared)]
        return [row for row in theirs if place in (None, row.what in OF_PLACE)]

    ranks = [
        of(parts, mine=True, vector=True)[:1],
        of(parts, mine=True, vector=False, place=False)[:1],
        of(live, mine=True, vector=True),
        of(parts, mine=False, vector=True)[:1],
        of(live, mine=False, vector=True),
        of(parts, mine=False, vector=False, place=False)[:1],
        of(parts, mine=True, vector=False, place=True)[:1],
        of(live, mine=True, vector=False),
        [*of(live, mine=False, vector=False), *of(parts, mine=False, vector=False, place=True)],
    ]
    return next((rows for rows in ranks if rows), [])


def _check(found: Said, night: Night, live: Sequence[Row], parts: Sequence[Row]) -> None:
    """Every item has the outcome that the rule gives it, and nothing else is there."""
    explained: set[tuple[str, str]] = set()
    for id_, now in night.items.items():
        may = _may_win(id_, now, live, parts, shared=now in night.shared)
        if not may:
            continue
        outcome = (id_, "vectors" if may[0].what == "vector" else "rejects")
        fingerprint, mark, keeps = found[outcome]
        explained.add(outcome)
        assert fingerprint == now
        won = next(row for row in may if row.mark == mark)
        old = [row for row in live if row.id == id_ and row.what == "vector"]
        again = won.what in ("retry", "away") or (won.what == "gone" and won.id != id_)
        assert keeps == (again and bool(old))
        if keeps:
            explained.add((id_, "vectors"))
            assert found[id_, "vectors"] == (old[0].fingerprint, old[0].mark, False)
    assert set(found) == explained


@settings(max_examples=40)
@given(st.lists(_NIGHT, min_size=1, max_size=3), st.sampled_from([1, 6000, 1 << 20]))
def test_random_histories_merge_as_the_rule_says(nights: list[Night], target_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        live: tuple[FileEntry, ...] = ()
        rows: list[Row] = []
        made_as: list[tuple[str, str]] = []
        for number, night in enumerate(nights):
            parts: list[Row] = []
            written: list[FileEntry] = []
            for batch in night.batches:
                made = [Row(*outcome, mark=len(made_as) + n) for n, outcome in enumerate(batch)]
                made_as += [(row.id, row.what) for row in made]
                parts += made
                written += part(store, made)
            run_id = f"r{number}"
            planned = plan(
                store, night.items, live, written, target_bytes=target_bytes, shared=night.shared, run_id=run_id
            )
            live = _merged(store, planned)
            found = as_rows(store, live)
            _check(found, night, rows, parts)
            before, rows = (
                rows,
                [
                    Row(id_, fingerprint, _what(id_, *made_as[mark]), mark)
                    for (id_, _), (fingerprint, mark, _) in found.items()
                ],
            )
            _check_changes(changes_of(store, run_id), before, rows)


def _what(id_: str, made_by: str, what: str) -> str:
    """What a row of `id_` is that was made as `what`: another's place says nothing final of its own."""
    return "away" if what == "gone" and made_by != id_ else what


def _check_changes(ops: dict[str, str], before: Sequence[Row], after: Sequence[Row]) -> None:
    old, new = ({row.id: row.mark for row in rows if row.what == "vector"} for rows in (before, after))
    for id_ in old | new:
        if id_ not in old:
            assert ops.pop(id_) == "insert"
        elif id_ not in new:
            assert ops.pop(id_) == "delete"
        elif old[id_] != new[id_]:
            assert ops.pop(id_) == "update"
    assert not ops
