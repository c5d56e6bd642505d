"""Tiles cut into smaller ones lose no pair, double none, and name the same items."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.rerank.tiles import Tile, pairs_in, split_tile


@st.composite
def tiles(draw: st.DrawFn) -> Tile:
    n_queries, n_documents = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    places = st.tuples(st.integers(0, n_queries - 1), st.integers(0, n_documents - 1))
    return {
        "queries": [{"id": f"q{n}"} for n in range(n_queries)],
        "documents": [{"id": f"d{n}"} for n in range(n_documents)],
        "pairs": [
            {"query": query, "document": document, "query_id": f"q{query}", "doc_id": f"d{document}"}
            for query, document in draw(st.lists(places, unique=True))
        ],
    }


@given(tile=tiles(), wanted=st.sets(st.tuples(st.integers(0, 4), st.integers(0, 5))), max_pairs=st.integers(1, 9))
def test_every_wanted_pair_is_in_one_tile_with_its_items(
    tile: Tile, wanted: set[tuple[int, int]], max_pairs: int
) -> None:
    named = {(f"q{query}", f"d{document}") for query, document in wanted}
    parts = list(split_tile(tile, named, max_pairs))
    assert [pair for part in parts for pair in pairs_in(part)] == [pair for pair in pairs_in(tile) if pair in named]
    assert all(len(part["pairs"]) == max_pairs for part in parts[:-1])
    for part in parts:
        assert 0 < len(part["pairs"]) <= max_pairs
        for pair in part["pairs"]:
            assert part["queries"][pair["query"]]["id"] == pair["query_id"]
            assert part["documents"][pair["document"]]["id"] == pair["doc_id"]
        for side, place in (("queries", "query"), ("documents", "document")):
            assert {pair[place] for pair in part["pairs"]} == set(range(len(part[side])))
