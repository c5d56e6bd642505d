"""Publishing scores: files of the size that was asked for, the same as a TREC run, and one commit only if needed."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import IncompleteError
from pipeline.index.files import live_files
from pipeline.index.log import Log
from pipeline.index.verify import verify
from pipeline.stages.publish_scores import trec_path
from pipeline.storage import Store, open_store
from pipeline.trec import read_run
from tests.fixtures.score_cases import outcome, publish, reject, wanted

PAIRS = [*(wanted("q", f"d{n}", n + 1) for n in range(4)), wanted("p", "d0", 1), wanted("p", "d9", 2, None)]
OUTCOMES = [
    outcome("q", "d0", 0.5), outcome("q", "d1", 2.0), outcome("q", "d2", 0.5), reject("q", "d3"),
    outcome("p", "d0", -3.0),
]  # fmt: skip


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def live_table(store: Store) -> pa.Table:
    return pa.concat_tables([pq.read_table(store.full(entry.path)) for entry in live_files(store)])


def test_the_table_and_its_trec_run_say_the_same(local: Store) -> None:
    assert publish(local, PAIRS, OUTCOMES) == {"FETCH_FAILED": 1, "UNKNOWN_ID": 1}
    assert verify(local) == []
    assert live_table(local).schema.metadata[b"k"] == b"v"
    rows = live_table(local).sort_by([("query_id", "ascending"), ("rank", "ascending")]).to_pylist()
    text = local.read(trec_path("r")).decode().splitlines()
    run = sorted(read_run(text, "run.trec"), key=lambda pair: (pair.query_id, -pair.score))
    assert [(pair.query_id, pair.doc_id) for pair in run] == [(row["query_id"], row["doc_id"]) for row in rows]
    assert run[0].score == -3.0
    snapshot = Log(local).state().snapshot
    assert snapshot is not None
    assert snapshot.info == {"pairs": 6, "rejects": {"FETCH_FAILED": 1, "UNKNOWN_ID": 1}, "table": "scores"}


def test_what_is_live_already_is_not_committed_again(local: Store) -> None:
    publish(local, PAIRS, OUTCOMES)
    live, head = live_files(local), Log(local).head()
    assert publish(local, PAIRS, [], "again") == {"FETCH_FAILED": 1, "UNKNOWN_ID": 1}
    assert live_files(local) == live
    assert Log(local).head() == head + 2  # its claim and its release
    assert not local.exists(trec_path("again"))
    assert publish(local, PAIRS[:1], [], "fewer") == {}
    assert live_table(local).num_rows == 1
    assert verify(local) == []


def test_pairs_without_an_outcome_are_no_table(local: Store) -> None:
    with pytest.raises(IncompleteError, match="run again"):
        publish(local, PAIRS, OUTCOMES[1:])
    assert Log(local).state().snapshot is None


def test_ids_that_trec_cannot_hold_cost_only_the_trec_file(local: Store, caplog: pytest.LogCaptureFixture) -> None:
    pairs = [wanted("q", "d 0", 1), wanted("z", "d1", 1)]
    with caplog.at_level(logging.WARNING, "lakevec"):
        publish(local, pairs, [outcome("q", "d 0", 1.0), outcome("z", "d1", 1.0)])
    assert "has no run.trec" in caplog.text
    assert "'d 0'" in caplog.text
    assert not local.exists(trec_path("r"))
    assert live_table(local).num_rows == 2
    assert verify(local) == []


def test_a_long_table_comes_in_files_and_a_list_may_go_on_in_the_next(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.spill.BATCH_ROWS", 2048)  # DuckDB's own step, the least it goes by
    n = 4 * 2048 + 10
    pairs = [wanted("q", f"{number:06}", number + 1) for number in range(n)]
    publish(local, pairs, [outcome("q", pair["doc_id"], 1.0) for pair in pairs], target_bytes=1)
    each = [entry.rows for entry in live_files(local)]
    assert len(each) >= 5
    assert max(each) <= 2048
    assert verify(local) == []
    run = list(read_run(local.read(trec_path("r")).decode().splitlines(), "run.trec"))
    assert [pair.doc_id for pair in run] == [pair["doc_id"] for pair in pairs]
    assert all(before.score > after.score for before, after in pairwise(run))
    publish(local, [*pairs, wanted("z", "d", 1, None)], [], "large", target_bytes=1 << 20)
    assert [entry.rows for entry in live_files(local)] == [n + 1]
