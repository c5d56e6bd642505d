"""The plan of a rerank run: which items are looked at, how pairs come into tiles, and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.candidates.candidates import open_candidates
from pipeline.config import FetchConfig
from pipeline.errors import ManifestError, RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.identity import Identifier
from pipeline.manifest.rows import ManifestRow
from pipeline.manifest.work import from_work_table
from pipeline.policy import FetchPolicy
from pipeline.rerank.config import CandidatesConfig
from pipeline.rerank.ledger import PAIRS
from pipeline.rerank.plan import RerankPlan, Side, make_rerank_plan
from pipeline.rerank.tiles import Tile, pairs_in
from pipeline.storage import Store, open_store
from pipeline.types import LoadedItem
from tests.fixtures.manifests import opened, write_jsonl
from tests.fixtures.score_cases import outcome, write_outcomes

Pairs = Sequence[tuple[str, str]]


def planned(
    folder: Path,
    pairs: Pairs,
    queries: Sequence[dict[str, Any]] | None = None,
    documents: Sequence[dict[str, Any]] | None = None,
    *,
    tile_pairs: int = 100,
    **options: Any,
) -> RerankPlan:
    """A plan over manifests of these rows; without any, of a text each for all ids in `pairs`."""
    listed = [sorted({pair[side] for pair in pairs}) for side in (0, 1)]
    rows = [
        given if given is not None else [{"id": key, "text": f"t {key}"} for key in ids]
        for given, ids in zip((queries, documents), listed, strict=True)
    ]
    paths = [
        write_jsonl(folder / f"{name}.jsonl", each) for name, each in zip(("queries", "documents"), rows, strict=True)
    ]
    columns = {"query_id": [query for query, _ in pairs], "doc_id": [doc for _, doc in pairs]}
    columns["score"] = [1 - n / 1e6 for n in range(len(pairs))]
    pq.write_table(pa.table(columns), folder / "lists.parquet")
    return make_rerank_plan(
        open_candidates(CandidatesConfig(path=str(folder / "lists.parquet")), {}, folder),
        Side(opened(paths[0]), lambda row: row or "default"),
        Side(opened(paths[1]), lambda row: ""),
        store_in(folder),
        run_id="r",
        compute_fingerprint="c",
        policy=FetchPolicy.of(FetchConfig(), str(folder)),
        identity="auto",
        max_attempts=3,
        tile_pairs=tile_pairs,
        **options,
    )


def store_in(folder: Path) -> Store:
    return open_store(str(folder / "out"))


def tiles(folder: Path, plan: RerankPlan) -> list[Tile]:
    return [tile for path in plan.work_paths for tile in pq.read_table(store_in(folder).full(path)).to_pylist()]


def wanted_of(folder: Path, plan: RerankPlan) -> list[dict[str, Any]]:
    table = pq.read_table(store_in(folder).full(plan.pairs_path))
    assert table.schema.equals(PAIRS)
    return list(table.to_pylist())


def test_every_pair_comes_into_one_tile_with_its_items(tmp_path: Path) -> None:
    pairs = [(f"q{q}", f"d{d}") for q in range(5) for d in range(q, q + 4)]
    plan = planned(tmp_path, pairs, tile_pairs=6)
    made = tiles(tmp_path, plan)
    assert sorted(pair for tile in made for pair in pairs_in(tile)) == sorted(pairs)
    assert (plan.counts.items, plan.counts.to_do, plan.counts.queries, plan.counts.documents) == (20, 20, 5, 8)
    for tile in made:
        for pair in tile["pairs"]:
            query, document = tile["queries"][pair["query"]], tile["documents"][pair["document"]]
            assert (query["id"], document["id"]) == (pair["query_id"], pair["doc_id"])
            assert query["texts"] == [f"t {query['id']}"]
    fingerprints = {(row["query_id"], row["doc_id"]): row["fingerprint"] for row in wanted_of(tmp_path, plan)}
    assert len(set(fingerprints.values())) == 20
    listed = [pair for tile in made for pair in tile["pairs"]]
    assert all(pair["fingerprint"] == fingerprints[pair["query_id"], pair["doc_id"]] for pair in listed)


def test_only_named_items_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    identify = Identifier.identify

    def noting(self: Identifier, rows: Sequence[ManifestRow]) -> Iterator[Any]:
        asked.extend(row.id for row in rows)
        return identify(self, rows)

    monkeypatch.setattr(Identifier, "identify", noting)
    documents = [{"id": f"d{n}", "image": f"missing{n}.png"} for n in range(400)]
    plan = planned(tmp_path, [("q", "d7"), ("q", "d300")], documents=documents)
    assert asked == ["q", "d7", "d300"]
    assert plan.counts.to_do == 2
    (tile,) = tiles(tmp_path, plan)
    assert [item["id"] for item in tile["documents"]] == ["d300", "d7"]


def test_a_pair_of_an_unknown_side_is_wanted_but_not_worked_on(tmp_path: Path) -> None:
    pairs = [("q", "d"), ("q", "nobody"), ("nobody", "d"), ("nobody", "nobody")]
    plan = planned(tmp_path, pairs, [{"id": "q", "text": "t"}], [{"id": "d", "text": "t"}])
    assert (plan.counts.items, plan.counts.unknown, plan.counts.to_do) == (4, 3, 1)
    told = {(row["query_id"], row["doc_id"]): row["detail"] for row in wanted_of(tmp_path, plan)}
    query, document = "the query is in no manifest", "the document is in no manifest"
    assert [told[pair] for pair in pairs] == [None, document, query, query]
    assert [pair for tile in tiles(tmp_path, plan) for pair in pairs_in(tile)] == [("q", "d")]


def test_a_long_list_is_split_and_takes_no_other_along(tmp_path: Path) -> None:
    lists = {f"long{q}": [f"long{q}-{n:02}" for n in range(11 + 7 * q)] for q in range(4)}
    lists |= {f"short{q:02}": [f"short{q}-0"] for q in range(60)}
    pairs = [(query, doc) for query, docs in lists.items() for doc in docs]
    made = tiles(tmp_path, planned(tmp_path, pairs, tile_pairs=10))
    for query, docs in lists.items():
        parts = sorted(pairs_in(tile) for tile in made if query in {item["id"] for item in tile["queries"]})
        if query.startswith("long"):
            chunks = [docs[start : start + 10] for start in range(0, len(docs), 10)]
            assert parts == [[(query, doc) for doc in chunk] for chunk in chunks]
        else:
            assert len(parts) == 1
            assert len(parts[0]) <= 10


def test_lists_that_share_documents_meet(tmp_path: Path) -> None:
    rng = random.Random(3)
    # Each list is ten of the twelve documents of one of five topics.
    lists = {f"q{q:02}": [f"topic{q % 5}-{d}" for d in rng.sample(range(12), 10)] for q in range(40)}
    made = tiles(tmp_path, planned(tmp_path, [(q, d) for q, docs in lists.items() for d in docs], tile_pairs=80))
    ours = sum(len(tile["documents"]) for tile in made)
    names = list(lists)
    at_random = []
    for _ in range(20):
        rng.shuffle(names)
        at_random.append(
            sum(len({doc for name in names[start : start + 8] for doc in lists[name]}) for start in range(0, 40, 8))
        )
    assert ours < 0.75 * min(at_random)


def test_a_change_of_either_side_changes_its_pairs_only(tmp_path: Path) -> None:
    pairs = [("q", "d"), ("q", "e"), ("p", "d")]
    first = planned(tmp_path, pairs)
    scored = [outcome(row["query_id"], row["doc_id"], 1.0, row["fingerprint"]) for row in wanted_of(tmp_path, first)]
    live = [write_outcomes(store_in(tmp_path), scored)]
    assert planned(tmp_path, pairs, live=live).work_paths == ()
    queries = [{"id": "q", "text": "t q"}, {"id": "p", "text": "t p"}]
    for changed_queries, documents, expected in (
        (None, [{"id": "d", "text": "other"}, {"id": "e", "text": "t e"}], [("p", "d"), ("q", "d")]),
        ([queries[0] | {"instruction": "Find"}, queries[1]], None, [("q", "d"), ("q", "e")]),
        (None, [{"id": "d", "text": "t d", "instruction": "Find"}, {"id": "e", "text": "t e"}], []),
    ):
        plan = planned(tmp_path, pairs, changed_queries, documents, live=live)
        assert (plan.counts.changed, plan.counts.to_do) == (len(expected), len(expected))
        assert sorted(pair for tile in tiles(tmp_path, plan) for pair in pairs_in(tile)) == expected


@pytest.mark.parametrize("side", ["queries", "documents"])
def test_an_id_that_a_manifest_has_twice_is_refused(tmp_path: Path, side: str) -> None:
    rows = {side: [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "a", "text": "three"}]}
    with pytest.raises(ManifestError, match="duplicate"):
        planned(tmp_path, [("a", "b"), ("b", "a")], **rows)
    assert not list(store_in(tmp_path).list())


def test_a_document_that_changed_since_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"planned")
    documents = [{"id": "d", "image": "a.png"}]
    plan = planned(tmp_path, [("q", "d")], documents=documents)
    [tile] = [pq.read_table(store_in(tmp_path).full(path)) for path in plan.work_paths]
    work = pa.Table.from_struct_array(tile.column("documents").combine_chunks().flatten())
    with Fetcher(FetchPolicy.of(FetchConfig(), str(tmp_path))) as fetcher:
        [(_, first)] = fetcher.load_many(from_work_table(work))
        (tmp_path / "a.png").write_bytes(b"changed since")  # of another size: clocks of file systems are coarse
        [(_, second)] = fetcher.load_many(from_work_table(work))
    assert isinstance(first, LoadedItem)
    assert isinstance(second, RejectError)
    assert second.code is RejectCode.SOURCE_CHANGED
