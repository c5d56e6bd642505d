"""`verify` and `files` on a rerank output: sound tables pass, and each broken promise is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.index.commits import Commit, dump_commit
from pipeline.index.files import invisible_files, live_files
from pipeline.index.log import Log, commit_path
from pipeline.index.parquet import sha256_of
from pipeline.index.verify import verify
from pipeline.rerank.schema import SCORES
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import Row, finish_run
from tests.fixtures.score_cases import outcome, publish, reject, wanted

PAIRS = [*(wanted("q", f"d{n}", n + 1) for n in range(4)), wanted("p", "d0", 1), wanted("p", "d9", 2, None)]
OUTCOMES = [outcome("q", "d0", 0.5), outcome("q", "d1", 2.0), outcome("q", "d2", 0.5), outcome("p", "d0", -3.0)]
Change = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@pytest.fixture
def local(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"))
    publish(store, PAIRS, [*OUTCOMES, reject("q", "d3", "IMAGE_UNREADABLE")])
    return store


def rules(store: Store) -> set[str]:
    return {violation.rule for violation in verify(store)}


def snapshot_of(store: Store) -> Commit:
    snapshot = Log(store).state().snapshot
    assert snapshot is not None
    return snapshot


def recommit(store: Store, **change: Any) -> None:
    snapshot = snapshot_of(store)
    store.put(commit_path(snapshot.seq), dump_commit(replace(snapshot, **change)))


def rewrite(store: Store, table: pa.Table) -> None:
    """Put `table` in the place of the one live file, and commit it with its right size and checksum."""
    (entry,) = snapshot_of(store).live
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data = sink.getvalue().to_pybytes()
    store.put(entry.path, data)
    changed = replace(entry, rows=table.num_rows, bytes=len(data), sha256=sha256_of(store, entry.path))
    recommit(store, live=(changed,))


def live_table(store: Store) -> pa.Table:
    return pq.read_table(store.full(live_files(store)[0].path))


def with_row(place: int, **fields: Any) -> Change:
    """Rows stand as p × d0, p × d9 (unknown), q × d1, d0, d2, d3 (rejected)."""
    return lambda rows: [row | fields if n == place else row for n, row in enumerate(rows)]


def test_a_sound_table_has_no_violation(local: Store) -> None:
    assert verify(local) == []
    assert invisible_files(local) != []  # the part that was merged, and not run.trec
    assert all(file.path.endswith(".parquet") for file in invisible_files(local))


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "twice": (lambda rows: [*rows, rows[0] | {"rank": 3}], {"duplicate", "rank", "outcome"}),
    "lost": (lambda rows: rows[:-1], {"outcome"}),
    "rank from 0": (with_row(0, rank=0), {"rank"}),
    "no rank": (with_row(0, rank=None), {"rank"}),
    "a tie against the first stage": (lambda rows: with_row(3, rank=3)(with_row(4, rank=2)(rows)), {"rank"}),
    "a lower logit first": (with_row(0, logit=-math.inf), {"values"}),
    "NaN": (with_row(2, logit=math.nan, score=math.nan), {"values"}),
    "no logit": (with_row(2, logit=None, score=None), {"values", "rank"}),
    "another score": (with_row(2, score=0.5), {"values"}),
    "no score": (with_row(2, score=None), {"values"}),
    "scored with a code": (with_row(2, code="OVER_LENGTH"), {"values", "outcome"}),
    "rejected without one": (with_row(5, code=None), {"values", "outcome"}),
    "rejected for a reason of nobody's": (with_row(5, code="BAD_LUCK"), {"values", "outcome"}),
    "rejected with a score": (with_row(5, score=0.5), {"values"}),
    "another status": (with_row(2, status="done"), {"values"}),
    "another code": (with_row(5, code="OVER_LENGTH"), {"outcome"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_rows_that_break_a_promise_are_seen(name: str, local: Store) -> None:
    change, expected = CHANGES[name]
    before = live_table(local)
    assert list(zip(before["query_id"].to_pylist(), before["doc_id"].to_pylist(), strict=True)) == [
        ("p", "d0"), ("p", "d9"), ("q", "d1"), ("q", "d0"), ("q", "d2"), ("q", "d3"),
    ]  # fmt: skip
    rewrite(local, pa.Table.from_pylist(change(before.to_pylist()), SCORES))
    # What is wrong in a file is mended before all of them are looked at together.
    assert rules(local) == ({"values"} if "values" in expected else expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["truncated"]),
        lambda table: table.append_column("more", pa.nulls(6, pa.string())),
        lambda table: table.set_column(4, "logit", table["logit"].cast(pa.float64())),
    ],
)
def test_columns_of_another_type_are_seen(local: Store, change: Callable[[pa.Table], pa.Table]) -> None:
    rewrite(local, change(live_table(local)))
    assert rules(local) == {"schema"}


def test_damaged_files_are_seen(local: Store) -> None:
    (entry,) = snapshot_of(local).live
    data = local.read(entry.path)
    local.put(entry.path, data[:-1])
    assert rules(local) == {"size"}
    local.put(entry.path, bytes([*data[:40], data[40] ^ 1, *data[41:]]))
    assert rules(local) == {"checksum"}
    local.delete(entry.path)
    assert rules(local) == {"file"}


def test_wrong_counts_are_seen(local: Store) -> None:
    sound = snapshot_of(local)
    for change in ({"pairs": 7}, {"rejects": {}}):
        recommit(local, info=sound.info | change)
        assert rules(local) == {"outcome"}
    recommit(local, info=sound.info, live=tuple(replace(entry, rows=7) for entry in sound.live))
    assert rules(local) == {"rows"}


def test_the_commands_know_both_kinds_of_output(
    local: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish_run(open_store(str(tmp_path / "index")), "r", {"i": "f"}, [[Row("i", "f")]])
    for output, default in ((local.root, "scores"), (str(tmp_path / "index"), "vectors")):
        assert main(["verify", output]) == 0
        assert capsys.readouterr().out == "every invariant holds\n"
        assert main(["files", output]) == 0
        unasked = capsys.readouterr().out
        assert main(["files", output, "--table", default]) == 0
        assert capsys.readouterr().out == unasked
        assert f"/{default}/run=r/" in unasked
        assert main(["files", output, "--table", "rejects"]) == 0
        assert capsys.readouterr().out == ""
