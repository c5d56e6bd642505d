"""Reconciling a pass: what was lost is found, what ran twice is counted once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import VectorSpec
from pipeline.index.claim import Claim
from pipeline.index.commits import Table
from pipeline.index.files import live_files
from pipeline.index.merge import plan_merge, run_merge
from pipeline.index.snapshot import commit_snapshot
from pipeline.index.verify import verify
from pipeline.manifest.work import to_work_table
from pipeline.models.encoder import Encoded
from pipeline.outcomes import window_outcomes
from pipeline.plan import work_folder
from pipeline.schema import ITEM_KEYS, rejects_schema, vectors_schema
from pipeline.stages.committer import Committer
from pipeline.stages.reconcile import lost_work, write_work
from pipeline.stages.write import WriteSettings, write_outcomes
from pipeline.storage import Store, open_store
from pipeline.tally import Tally
from pipeline.types import Modality, Prepared, WorkItem
from pipeline.window import pack_window, unpack_window

RUN = "run-1"
SPECS = (VectorSpec(name="vector", dtype="float32"),)
HIDDEN = 8


def work_items(n: int) -> list[WorkItem]:
    return [WorkItem(f"i{k}", (f"t{k}",), (), None, None, None, f"f{k}", "m.parquet", k, 0) for k in range(n)]


def window_of(work: pa.Table, seed: int) -> pa.Table:
    prepared = [
        Prepared(name, np.zeros(2, np.int32), np.zeros((3, 2), np.int32), (), Modality.TEXT, 0, 0, False, name)
        for name in work.column("id").to_pylist()
    ]
    window = unpack_window(pack_window(work.select(["id", "fingerprint", "attempts"]), prepared, 0.0))
    states = np.random.default_rng(seed).standard_normal((len(prepared), HIDDEN)).astype(np.float32)
    return window_outcomes(window, Encoded(states), specs=SPECS, carry=(), encode_s=0.0)


def settings(store: Store) -> WriteSettings:
    return WriteSettings(store, RUN, pa.string(), (), SPECS, HIDDEN, {})


def test_lost_and_repeated_windows(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), {})
    table = to_work_table(work_items(30))
    paths = []
    for number in range(3):
        path = f"{work_folder(RUN)}/{number:05d}.parquet"
        paths.append(write_work(store, path, table.slice(10 * number, 10)))
    with store.open_output("items.parquet") as file:
        pq.write_table(table.select(ITEM_KEYS), file)

    with Claim.acquire(store, RUN, fingerprint="f") as claim:
        committer = Committer(claim, Tally(), {}, interval_s=0)
        first = window_of(table.slice(0, 12), seed=1)
        committer.take(write_outcomes(first, settings(store)))
        committer.take(write_outcomes(first, settings(store)))  # the same window, executed twice
        committer.take(write_outcomes(window_of(table.slice(20, 10), seed=2), settings(store)))

        lost = lost_work(store, RUN, paths, committer.committed)
        assert lost is not None
        assert lost.column("id").to_pylist() == [f"i{k}" for k in range(12, 20)]
        assert lost.schema == table.schema
        again = write_work(store, f"_work/{RUN}/pass-1.parquet", lost)
        committer.take(write_outcomes(window_of(lost, seed=3), settings(store)))
        assert lost_work(store, RUN, [again], committer.committed) is None

        schemas = {
            Table.VECTORS: vectors_schema(SPECS, HIDDEN, (), pa.string()),
            Table.REJECTS: rejects_schema(pa.string()),
        }
        plan = plan_merge(
            store, "items.parquet", (), committer.committed, schemas=schemas, run_id=RUN, target_bytes=1 << 20
        )
        merged = [run_merge(store, task) for task in plan.tasks]
        commit_snapshot(claim, plan, merged, specs=SPECS, hidden_dim=HIDDEN, id_type=pa.string(), carry=())

    assert verify(store) == []
    live = pa.concat_tables([pq.read_table(store.full(entry.path)) for entry in live_files(store)])
    assert sorted(live.column("id").to_pylist()) == sorted(f"i{k}" for k in range(30))


def test_an_old_reject_of_an_item_tried_again_does_not_hide_its_loss(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), {})
    table = to_work_table(work_items(2))
    path = write_work(store, f"{work_folder(RUN)}/00000.parquet", table)
    lost = lost_work(store, RUN, [path], ())
    assert lost is not None
    assert lost.num_rows == 2
