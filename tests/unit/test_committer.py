"""The committer commits by the clock, everything once, and leaves nothing behind on flush."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipeline.index.claim import Claim
from pipeline.index.log import Log
from pipeline.stages.committer import Committer
from pipeline.stages.write import RECEIPT
from pipeline.storage import open_store
from pipeline.tally import Tally


def receipt(number: int, items: int = 3) -> pa.Table:
    part = {
        "table": "vectors", "path": f"vectors/run=r/part-{number}.parquet", "rows": items, "bytes": 9,
        "sha256": "0" * 64, "ids_digest": "d",
    }  # fmt: skip
    row = {
        "parts": [part], "items": items, "vectors": items - 1, "encoded": items - 1, "text_tokens": 10,
        "visual_tokens": 5, "padded_tokens": 1.0, "forwards": 2.0, "filled": 1.5,
        "prepare_s": 1.0, "encode_s": 2.0, "write_s": 0.5,
        "rejects": [{"code": "NOT_FOUND", "n": 1}],
    }  # fmt: skip
    return pa.Table.from_pylist([row], RECEIPT)


def test_commits_by_the_clock(tmp_path: Path) -> None:
    store, tally, now = open_store(str(tmp_path), {}), Tally(), [0.0]
    with Claim.acquire(store, "r", fingerprint="f") as claim:
        committer = Committer(claim, tally, {"specs": []}, interval_s=30, clock=lambda: now[0])
        for number in range(6):
            now[0] = number * 10.0
            committer.take(receipt(number))
        assert len(Log(store).state().progress) == 1  # at 30 s, with the four receipts up to then
        assert committer.committed_items == 12
        committer.flush()
        committer.flush()  # nothing waits: no commit
        progress = Log(store).state().progress
        assert [len(commit.added) for commit in progress] == [4, 2]
        assert progress[0].info == {"specs": []}
        assert [entry.path for entry in committer.committed] == [
            f"vectors/run=r/part-{number}.parquet" for number in range(6)
        ]


def test_the_tally_adds_up(tmp_path: Path) -> None:
    tally = Tally()
    for number in range(4):
        for row in receipt(number).to_pylist():
            tally.add(row)
    assert (tally.items, tally.vectors, tally.encoded, tally.tokens) == (12, 8, 8, 60)
    assert tally.rejects == {"NOT_FOUND": 4}
    assert tally.packing_efficiency == 0.75
    assert (tally.prepare_s, tally.encode_s, tally.write_s, tally.padded_tokens) == (4.0, 8.0, 2.0, 4.0)
