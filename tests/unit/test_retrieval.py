"""A whole retrieval in one process: equal to brute force over an index's rows, for every dtype and any split."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError, ManifestError
from pipeline.index.commits import FileEntry, Table
from pipeline.retrieval import scan
from pipeline.retrieval.codes import floats, quantized
from pipeline.retrieval.kernels import pack, scores
from pipeline.retrieval.retrieval import Retrieval
from pipeline.retrieval.scan import cut_pieces
from pipeline.retrieval.settle import open_retrieval, settle
from pipeline.retrieval.top_k import best_of
from pipeline.retrieval.vector_index import open_index
from pipeline.retrieve_config import RetrieveConfig
from pipeline.storage import open_store
from tests.fixtures.vector_index import unit_vectors, write_index

DIM = 32
SPECS = (
    VectorSpec(name="full", dim=DIM, dtype="float32"),
    VectorSpec(name="half", dim=DIM, dtype="float16"),
    VectorSpec(name="small", dim=DIM, dtype="int8"),
    VectorSpec(name="bits", dim=16, dtype="binary"),
)
DOCUMENTS = unit_vectors(60, DIM, 1)
# Repeated vectors: equal scores that only ids can order.
DOCUMENTS[40:50] = DOCUMENTS[5]
IDS = [f"d{number:02d}" for number in np.random.default_rng(2).permutation(60)]
LANG = pa.array([("de", "en", None)[number % 3] for number in range(60)])
QUERIES = unit_vectors(7, DIM, 3)


def serially(function: Callable[[Any], pa.Table], arguments: Sequence[Any]) -> Iterator[pa.Table]:
    return map(function, reversed(arguments))


def brute_force(spec: VectorSpec, k: int, rows: Sequence[int] = range(60)) -> list[list[tuple[str, float]]]:
    """Every query's list: all of `rows` scored at once, then sorted."""
    kind = spec if spec.dtype in ("int8", "binary") else VectorSpec(dim=spec.dim, dtype="float32")
    found = scores(quantized(DOCUMENTS, spec)[0], pack(quantized(QUERIES, kind)[0], spec))
    order = [sorted(rows, key=lambda row: (-found[row, query], IDS[row])) for query in range(len(QUERIES))]
    return [[(IDS[row], float(found[row, query])) for row in best[:k]] for query, best in enumerate(order)]


def lists_of(found: pa.Table) -> list[list[tuple[str, float]]]:
    lists: list[list[tuple[str, float]]] = [[] for _ in QUERIES]
    for row in found.to_pylist():
        lists[row["query"]].append((row["id"], row["score"]))
    return lists


def answer(retrieval: Retrieval, ids: Sequence[str] = "abcdefg", vectors: NDArray[np.float32] = QUERIES) -> pa.Table:
    return retrieval.answer(
        pa.array(list(ids)), vectors, cut_pieces(retrieval.corpus.files, 5, least_bytes=1), serially
    )


def write(folder: Path, cuts: Sequence[int] = (11, 30), group_rows: int = 7, **named: Any) -> str:
    store = open_store(str(folder))
    write_index(store, IDS, DOCUMENTS, SPECS, carry={"lang": LANG}, cuts=cuts, group_rows=group_rows, **named)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("corpus") / "out", facts={"model": "m", "model_identity": "hub:m@1"})


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.dtype)
@given(st.data())
@settings(max_examples=6, deadline=None)
def test_any_split_of_the_corpus_gives_the_brute_force_lists(
    spec: VectorSpec, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 59), max_size=4)))
    k, parts = data.draw(st.sampled_from([1, 6, 15, 60, 100])), data.draw(st.integers(1, 9))
    path = write(tmp_path_factory.mktemp("split") / "out", cuts, data.draw(st.sampled_from([1, 7, 64])))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "TILE_ROWS", data.draw(st.sampled_from([3, 64])))
        patch.setattr(scan, "TILE_QUERIES", data.draw(st.sampled_from([2, 64])))
        retrieval = settle(open_index(open_store(path)), spec, k=k)
        pieces = cut_pieces(retrieval.corpus.files, parts, least_bytes=1)
        found = retrieval.answer(pa.array(list("abcdefg")), QUERIES, pieces, serially)
    assert lists_of(found) == brute_force(spec, k)


def test_a_filter_hides_rows_as_if_they_were_not_there(corpus: str) -> None:
    index = open_index(open_store(corpus))
    found = answer(settle(index, SPECS[2], k=9, condition="lang = 'de' OR lang IS NULL"))
    assert lists_of(found) == brute_force(SPECS[2], 9, [row for row in range(60) if LANG[row].as_py() != "en"])
    assert answer(settle(index, SPECS[2], k=9, condition="lang = 'fr'")).num_rows == 0
    with pytest.raises(ConfigError, match="small"):
        settle(index, SPECS[2], k=9, condition="small IS NULL")


@pytest.mark.parametrize(
    ("scanned", "again"), [("bits", "full"), ("small", "small"), ("bits", "bits"), ("bits", "small")]
)
def test_rescoring_ranks_the_scans_best_by_the_float_query(corpus: str, scanned: str, again: str) -> None:
    index = open_index(open_store(corpus))
    first, second = index.spec(scanned), index.spec(again)
    found = lists_of(answer(settle(index, first, k=4, rescore=second, oversample=3)))
    restored = floats(quantized(DOCUMENTS, second)[0], second).astype(np.float64)
    asked = quantized(QUERIES, VectorSpec(dim=second.dim, dtype="float32"))[0].values.astype(np.float64)
    for number, candidates in enumerate(brute_force(first, 12)):
        exact = {name: np.float32(restored[IDS.index(name)] @ asked[number]) for name, _ in candidates}
        expected = sorted(exact, key=lambda name: (-exact[name], name))[:4]
        assert [name for name, _ in found[number]] == expected
        np.testing.assert_allclose([score for _, score in found[number]], [exact[name] for name in expected], atol=1e-6)


def test_a_query_that_is_in_the_corpus_does_not_find_itself(corpus: str) -> None:
    index = open_index(open_store(corpus))
    names, rows = [IDS[row] for row in range(7)], DOCUMENTS[:7]
    itself = settle(index, SPECS[0], k=5)
    others = settle(index, SPECS[0], k=5, exclude_self=True)
    assert [row["id"] for row in answer(itself, names, rows).to_pylist()][::5] == [min(n, *_twins(n)) for n in names]
    for number, found in enumerate(lists_of(answer(others, names, rows))):
        assert names[number] not in [name for name, _ in found]
        assert len(found) == 5


def _twins(name: str) -> list[str]:
    row = IDS.index(name)
    return [IDS[other] for other in range(60) if np.array_equal(DOCUMENTS[other], DOCUMENTS[row])]


def test_blocks_are_bounded_by_what_an_answer_and_its_queries_take(corpus: str) -> None:
    retrieval = settle(open_index(open_store(corpus)), SPECS[0], k=1000, exclude_self=True)
    assert retrieval.block_rows(1024) * 1001 <= 1 << 20
    assert settle(retrieval.corpus, SPECS[0], k=1).block_rows(2048) * 2048 * 4 <= 64 << 20
    assert settle(retrieval.corpus, SPECS[0], k=1 << 22).block_rows(2048) == 1


def config(path: str, **sections: Any) -> RetrieveConfig:
    tree: dict[str, Any] = {
        "queries": {"path": path, "vector": "full"},
        "corpus": {"path": path, "vector": "small"},
        "output": {"path": "unused"},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section if isinstance(section, dict) else section
    return RetrieveConfig.model_validate(tree)


def test_an_indexs_own_vectors_can_be_the_queries(corpus: str) -> None:
    retrieval, queries = open_retrieval(config(corpus, k=3))
    blocks = list(queries.blocks(25))
    assert [len(ids) for ids, _ in blocks] == [25, 25, 10]
    by_id = dict(zip(IDS, DOCUMENTS, strict=True))
    for ids, vectors in blocks:
        np.testing.assert_allclose(vectors, [by_id[name] for name in ids.to_pylist()], atol=1e-6)
        first = [row["id"] for row in answer(retrieval, ids.to_pylist(), vectors).to_pylist()][::3]
        assert first == [min(_twins(name)) for name in ids.to_pylist()]


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"corpus": {"vector": "vector"}}, r"no vector column 'vector'; it has full \(float32, dim 32\), half"),
        ({"queries": {"vector": "nothing"}}, "no vector column 'nothing'"),
        ({"corpus": {"vector": "bits"}}, "has dim 32, the corpus's 'bits' has 16; set queries.cut: true"),
        ({"queries": {"vector": "bits"}}, "has dim 16, the corpus's 'small' has 32; name vectors of one dim"),
        ({"filter": "colour = 'red'"}, "colour.*columns there: id, modality"),
        ({"rescore": {"column": "bits"}}, "dim 32, the corpus's 'bits' has 16"),
        ({"corpus": {"path": "/nowhere"}}, "no lakevec output"),
        ({"queries": {"path": "/nowhere"}}, "neither an index nor a Parquet file"),
    ],
)
def test_what_does_not_go_together_is_refused(corpus: str, sections: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_retrieval(config(corpus, **sections))


def test_a_place_that_cannot_be_opened_is_named_by_its_key(corpus: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(corpus, broken)
    for file in broken.glob("vectors/**/*.parquet"):
        file.write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match=r"corpus\.path: cannot open .*broken: ArrowInvalid: .*; check the path"):
        open_retrieval(config(corpus, corpus={"path": str(broken)}))


def test_queries_may_be_cut_to_the_corpuss_dim(corpus: str) -> None:
    retrieval, queries = open_retrieval(
        config(corpus, corpus={"vector": "bits"}, queries={"cut": True}, rescore={"column": "auto"}, k=2)
    )
    assert retrieval.rescore == SPECS[0]  # as long as the queries, and exact
    assert queries.spec.dim == DIM


def test_another_models_queries_are_refused_unless_they_are_allowed(corpus: str, tmp_path: Path) -> None:
    other = write(tmp_path / "other", facts={"model": "n", "model_identity": "hub:n@1"})
    with pytest.raises(ConfigError, match=r"embedded by n \(hub:n@1\), the corpus by m \(hub:m@1\)"):
        open_retrieval(config(corpus, queries={"path": other}))
    open_retrieval(config(corpus, queries={"path": other}, allow_other_model=True))
    nameless = write(tmp_path / "nameless")
    open_retrieval(config(corpus, queries={"path": nameless}))


def test_queries_without_direction_are_named(corpus: str) -> None:
    retrieval = settle(open_index(open_store(corpus)), SPECS[2], k=1)
    vectors = QUERIES.copy()
    vectors[2], vectors[4, 3] = 0, np.nan
    with pytest.raises(ManifestError, match="2 queries have no direction, among them 'c', 'e'"):
        answer(retrieval, vectors=vectors)


def test_an_index_without_vectors_answers_with_empty_lists(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "empty"))
    write_index(store, [], np.empty((0, DIM), np.float32), SPECS)
    assert answer(settle(open_index(store), SPECS[2], k=3, condition="lang = 'de'")).num_rows == 0


def test_integer_ids_are_ordered_by_value(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "ints"))
    write_index(store, [10, 9, 100], np.repeat(QUERIES[:1], 3, axis=0), SPECS, cuts=[1, 2])
    found = answer(settle(open_index(store), SPECS[2], k=2), ids="a", vectors=QUERIES[:1])
    assert found.column("id").to_pylist() == [9, 10]
    assert best_of([found], 1).column("id").type == pa.int64()


def test_pieces_are_as_many_as_are_wanted_but_none_is_tiny() -> None:
    files = [FileEntry(Table.VECTORS, f"vectors/run=r/{n}.parquet", 1, n << 20, "0" * 64) for n in (1, 100, 300)]
    assert [piece.file for piece in cut_pieces(files, 1)] == [0, 1, 2]
    assert [piece.file for piece in cut_pieces(files, 12)] == [0, 1, 1, 1, 2, 2, 2, 2]
    assert [(piece.part, piece.parts) for piece in cut_pieces(files[1:2], 100)] == [(0, 3), (1, 3), (2, 3)]
    assert cut_pieces([], 9) == []
