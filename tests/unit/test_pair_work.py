"""The work of a rerank run: what is lost is told by pairs, cut smaller, and in the end given up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.index.commits import FileEntry
from pipeline.rerank.ledger import PairCounts
from pipeline.rerank.plan import RerankPlan
from pipeline.rerank.schema import SCORES, TILES
from pipeline.rerank.tiles import Tile, pairs_in
from pipeline.stages.pair_work import PairWork
from pipeline.stages.write_scores import WriteScoresSettings
from pipeline.storage import Store, open_store
from tests.fixtures.score_cases import outcome, wanted, write_outcomes, write_pairs

NAMED = [(f"q{q}", f"d{d}") for q in range(2) for d in range(6)]


def tile(query: str) -> Tile:
    """A tile of one query and six documents."""

    def item(key: str) -> dict[str, Any]:
        return {"id": key, "fingerprint": "f", "texts": [key], "media": [], "manifest_file": "m", "manifest_row": 0} | {
            "attempts": 0
        }

    pairs = [
        {k: v for k, v in wanted(query, f"d{d}", d + 1).items() if k != "detail"}
        | {"attempts": 1, "query": 0, "document": d}
        for d in range(6)
    ]
    return {"queries": [item(query)], "documents": [item(f"d{d}") for d in range(6)], "pairs": pairs}


@pytest.fixture
def work(tmp_path: Path) -> PairWork:
    store = open_store(str(tmp_path))
    with store.open_output("_work/r/work/0.parquet") as file:
        pq.write_table(pa.Table.from_pylist([tile("q0"), tile("q1")], TILES), file, row_group_size=1)
    # A pair that no tile of the run holds, and one in no manifest, are nobody's loss.
    pairs = [wanted(query, doc, int(doc[1:]) + 1) for query, doc in NAMED]
    path = write_pairs(store, [*pairs, wanted("q9", "d0", 1), wanted("q0", "nobody", 7, None)])
    counts = PairCounts(13, 12, 0, 0, 0, 0, 0, 2, 6)
    chain: Any = SimpleNamespace(write=SimpleNamespace(settings=WriteScoresSettings(store, "r", {"k": "v"})))
    return PairWork(chain, RerankPlan("r", path, ("_work/r/work/0.parquet",), counts), store)


def written(store: Store, *pairs: tuple[str, str], fingerprint: str = "f") -> FileEntry:
    return write_outcomes(store, [outcome(*pair, 1.0, fingerprint) for pair in pairs])


def pairs_of(table: pa.Table) -> list[tuple[str, str]]:
    return [pair for each in table.to_pylist() for pair in pairs_in(each)]


def test_what_has_an_outcome_is_not_lost(work: PairWork) -> None:
    assert work.to_do == 12
    done = written(work.store, *NAMED[:5])
    other = written(work.store, NAMED[5], fingerprint="of other contents")
    lost = work.lost(work.paths, [done, other])
    assert lost is not None
    assert (pairs_of(lost.rows), lost.items) == (NAMED[5:], 7)
    assert [len(each["documents"]) for each in lost.rows.to_pylist()] == [1, 6]
    assert work.lost(work.paths, [done, written(work.store, *NAMED[5:])]) is None


def test_lost_pairs_run_again_in_smaller_tiles_and_are_given_up_at_last(work: PairWork) -> None:
    done = written(work.store, *NAMED[:5])
    lost = work.lost(work.paths, [done])
    assert lost is not None
    paths = work.again(lost, 1, 4)
    table = pa.concat_tables([pq.read_table(work.store.full(path)) for path in paths])
    assert table.schema.equals(TILES)
    assert [len(each["pairs"]) for each in table.to_pylist()] == [1, 4, 2]
    assert pairs_of(table) == NAMED[5:]

    second = written(work.store, *NAMED[5:10])
    lost = work.lost(paths, [done, second])
    assert lost is not None
    assert pairs_of(lost.rows) == NAMED[10:]
    (receipt,) = work.give_up(lost, "died twice").to_pylist()
    assert (receipt["items"], receipt["vectors"], receipt["encoded"]) == (2, 0, 0)
    assert receipt["rejects"] == [{"code": "WORKER_CRASHED", "n": 2}]
    (part,) = receipt["parts"]
    entry = FileEntry(done.table, *(part[name] for name in ("path", "rows", "bytes", "sha256")))
    rejects = pq.read_table(work.store.full(entry.path))
    assert rejects.schema.equals(SCORES)
    assert rejects.schema.metadata[b"k"] == b"v"
    assert [(row["query_id"], row["doc_id"]) for row in rejects.to_pylist()] == NAMED[10:]
    assert {(row["code"], row["detail"], row["attempts"]) for row in rejects.to_pylist()} == {
        ("WORKER_CRASHED", "died twice", 2)
    }
    assert work.lost(work.paths, [done, second, entry]) is None
