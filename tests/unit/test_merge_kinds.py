"""Merging what was made under another kind: rows that are replaced as a whole, and rows whose vectors are derived."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import VectorSpec
from pipeline.errors import OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind, Table
from pipeline.index.derive import Derivation, derivation_of
from pipeline.index.log import Log
from pipeline.index.merge import run_merge
from pipeline.index.snapshot import commit_snapshot, kind_info, spec_info
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import (
    HIDDEN_DIM,
    SPECS,
    Kind,
    Row,
    as_rows,
    finish_run,
    part,
    plan,
    rows_of,
)

WANTED = (VectorSpec(name="half", dtype="float16"), VectorSpec(name="tiny", dim=2, dtype="int8"))
NEW_KIND = Kind(specs=(VectorSpec(name="wide", dtype="float32"),))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def derivation() -> Derivation:
    found = derivation_of(spec_info(SPECS, HIDDEN_DIM), WANTED, HIDDEN_DIM)
    assert found is not None
    return found


def publish(store: Store, run_id: str, items: dict[str, str], rows: list[Row], kind: Kind, **options: object) -> None:
    """A run of another kind than the index's: its parts, merge and snapshot."""
    info = kind_info(kind.specs, HIDDEN_DIM, kind.id_type)
    with Claim.acquire(store, run_id, fingerprint="compute") as claim:
        parts = list(claim.state.parts_where(**info))
        if rows:
            claim.commit(CommitKind.PROGRESS, added=part(store, rows, run_id, kind), info=info)
            parts += Log(store).state().progress[-1].added
        live = claim.state.live
        replaced = live if options.get("recompute") else ()
        planned = plan(
            store,
            items,
            () if replaced else live,
            parts,
            run_id=run_id,
            kind=kind,
            replaced=replaced,
            derivation=derivation() if options.get("derive") else None,
        )
        merged = [run_merge(store, pickle.loads(pickle.dumps(task))) for task in planned.tasks]
        commit_snapshot(
            claim, planned, merged, specs=kind.specs, hidden_dim=HIDDEN_DIM, id_type=kind.id_type, carry=kind.carry
        )


def test_replaced_rows_are_gone_even_where_a_retryable_reject_would_keep_them(local: Store) -> None:
    items = dict.fromkeys("abcd", "f1")
    finish_run(local, "night1", items | {"gone": "f1"}, [[Row(id_, mark=1) for id_ in (*"abcd", "gone")]])
    before = Log(local).state().live
    rows = [Row("a", mark=2), Row("b", what="retry", mark=2), Row("c", what="fatal", mark=2), Row("d", mark=2)]
    publish(local, "night2", items, rows, NEW_KIND, recompute=True)
    snapshot = Log(local).state().snapshot
    assert snapshot is not None
    assert as_rows(local, snapshot.live) == {
        ("a", "vectors"): ("f1", 2, False),
        ("b", "rejects"): ("f1", 2, False),
        ("c", "rejects"): ("f1", 2, False),
        ("d", "vectors"): ("f1", 2, False),
    }
    assert set(snapshot.removed) == {entry.path for entry in before}
    assert verify(local) == []
    assert all(local.exists(entry.path) for entry in before), "readers of the previous snapshot go on"


def test_parts_of_a_killed_run_of_the_new_kind_count_and_old_ones_do_not(local: Store) -> None:
    items = dict.fromkeys("ab", "f1")
    finish_run(local, "night1", items, [[Row("a", mark=1), Row("b", mark=1)]])
    with Claim.acquire(local, "killed", fingerprint="compute") as claim:
        for kind, rows in ((Kind(), [Row("b", mark=8)]), (NEW_KIND, [Row("a", mark=2)])):
            info = kind_info(kind.specs, HIDDEN_DIM, kind.id_type)
            claim.commit(CommitKind.PROGRESS, added=part(local, rows, "killed", kind), info=info)
    publish(local, "night2", items, [Row("b", mark=3)], NEW_KIND, recompute=True)
    assert {id_: mark for (id_, _), (_, mark, _) in as_rows(local, Log(local).state().live).items()} == {"a": 2, "b": 3}
    assert verify(local) == []


def test_every_live_file_gets_the_derived_columns_beside_new_parts(local: Store) -> None:
    items = dict.fromkeys("abc", "f1") | {"kept": "f2"}
    first = [Row("a", mark=2, label="x"), Row("b", mark=3, label="y"), Row("kept", mark=4)]
    finish_run(local, "night1", {**items, "kept": "f1"}, [first, [Row("c", what="retry", mark=1)]])
    old = {row["id"]: row for row in rows_of(local, Log(local).state().live, Table.VECTORS)}
    new_kind = Kind(specs=WANTED)
    publish(local, "night2", items, [Row("c", mark=5), Row("kept", "f2", "retry", 6)], new_kind, derive=True)
    snapshot = Log(local).state().snapshot
    assert snapshot is not None
    assert snapshot.info["specs"] == spec_info(WANTED, HIDDEN_DIM)
    assert verify(local) == []
    assert as_rows(local, snapshot.live)["kept", "rejects"] == ("f2", 6, True)
    found = {row["id"]: row for row in rows_of(local, snapshot.live, Table.VECTORS)}
    assert found.keys() == {"a", "b", "c", "kept"}
    for id_ in ("a", "b", "kept"):
        same = {name: value for name, value in old[id_].items() if not name.startswith("vector")}
        assert found[id_].items() >= same.items(), "all else stays as it was"
        assert found[id_]["tiny"] == [127] * 2
        np.testing.assert_allclose(found[id_]["tiny_scale"], 0.5**0.5 / 127, rtol=1e-6)
    assert list(found["a"]) == [field.name for field in new_kind.schemas[Table.VECTORS]]


def test_without_a_derivation_other_columns_are_another_kind(local: Store) -> None:
    finish_run(local, "night1", {"a": "f1"}, [[Row("a")]])
    live = Log(local).state().live
    with pytest.raises(OwnershipError, match="column tiny is not there"):
        plan(local, {"a": "f1"}, live, [], kind=Kind(specs=WANTED))
    planned = plan(local, {"a": "f1"}, live, [], kind=Kind(specs=WANTED), derivation=derivation())
    assert [len(task.inputs) for task in planned.tasks] == [1]
    assert planned.removed == (live[0].path,)
