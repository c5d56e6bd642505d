"""The recall report: what each dim and dtype keeps, on indexes and on plain Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kendalltau

from pipeline.errors import ConfigError, LakevecError
from pipeline.evaluate_config import RecallConfig
from pipeline.evaluation.picture import recall_svg
from pipeline.evaluation.recall import RecallCell, RecallReport, recall_report, specs_of, tau_b
from pipeline.evaluation.vectors import batches, keys_of, open_vectors, sample
from pipeline.storage import open_store
from tests.fixtures.index_cases import Row, finish_run

DIM = 32


def random_vectors(n: int, seed: int = 0) -> NDArray[np.float32]:
    """The first values matter most, as in a model trained for truncation."""
    values = np.random.default_rng(seed).standard_normal((n, DIM)) * np.exp(-np.arange(DIM) / 8)
    return values.astype(np.float32)


def write_vectors(path: Path, values: NDArray[Any], ids: Any = None, column: str = "vector") -> str:
    kind = pa.list_(pa.from_numpy_dtype(values.dtype), values.shape[1])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({"id": range(len(values)) if ids is None else ids, column: vectors}), path, row_group_size=64
    )
    return str(path)


def report(path: str, **settings: Any) -> RecallReport:
    return recall_report(RecallConfig.model_validate({"index": path, "k": [5], **settings}), {})


def cell(found: RecallReport, dim: int, dtype: str, k: int = 5) -> RecallCell:
    return next(each for each in found.cells if (each.dim, each.dtype, each.k) == (dim, dtype, k))


def test_the_full_float32_vectors_keep_everything_and_less_keeps_less(tmp_path: Path) -> None:
    found = report(write_vectors(tmp_path / "v.parquet", random_vectors(400)), sample=60, k=[5, 20])
    assert (found.queries, found.documents, found.excluded_self) == (60, 400, True)
    whole = cell(found, DIM, "float32")
    assert (whole.recall, whole.recall_low, whole.tau_b, whole.bytes_per_vector) == (1.0, 1.0, 1.0, 128)
    by_dim = [cell(found, dim, "float32").recall for dim in (32, 16, 8)]
    assert by_dim == sorted(by_dim, reverse=True)
    assert 1 > by_dim[1] > by_dim[2] > 0
    assert 1 >= cell(found, DIM, "int8").recall > cell(found, DIM, "binary").recall > 5 / 400
    assert [cell(found, DIM, dtype).bytes_per_vector for dtype in ("float16", "int8", "binary")] == [64, 36, 4]
    assert len(found.cells) == 2 * 3 * 4


@pytest.mark.parametrize("own", [False, True])
def test_recall_is_the_share_of_neighbours_that_brute_force_finds(tmp_path: Path, own: bool) -> None:
    corpus = random_vectors(120)
    queries = corpus if own else random_vectors(9, seed=1)
    path = None if own else write_vectors(tmp_path / "q.parquet", queries)
    found = report(write_vectors(tmp_path / "v.parquet", corpus), dims=[8], dtypes=["float32"], queries=path)

    def nearest(dim: int) -> NDArray[np.int64]:
        one, other = (x[:, :dim] / np.linalg.norm(x[:, :dim], axis=1, keepdims=True) for x in (queries, corpus))
        return np.argsort(-(one @ other.T), axis=1)[:, int(own) : 5 + own]

    shares = sorted(len(set(a) & set(b)) / 5 for a, b in zip(nearest(DIM), nearest(8), strict=True))
    assert found.cells[0].recall == pytest.approx(np.mean(shares))
    assert found.cells[0].recall_low == shares[(len(shares) - 1) // 10]
    assert (found.queries, found.excluded_self) == (len(queries), own)


def test_equal_vectors_are_kept_in_one_order_under_every_dtype(tmp_path: Path) -> None:
    copies = np.repeat(random_vectors(6), 30, axis=0)
    found = report(write_vectors(tmp_path / "v.parquet", copies), dims=[DIM])
    assert {each.recall for each in found.cells} == {1.0}
    assert {each.tau_b for each in found.cells} == {1.0}


def test_the_order_of_items_and_the_files_they_lie_in_change_nothing(tmp_path: Path) -> None:
    values, order = random_vectors(150), np.random.default_rng(2).permutation(150)
    one = report(write_vectors(tmp_path / "v.parquet", values), sample=20)
    for name, part in (("a", slice(100)), ("b", slice(100, None))):
        write_vectors(tmp_path / "several" / f"{name}.parquet", values[order[part]], order[part])
    assert report(str(tmp_path / "several"), sample=20) == one


def test_an_index_is_read_through_its_snapshot(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ids = [f"i{number}" for number in range(4)]
    finish_run(store, "run1", dict.fromkeys(ids, "f1"), [[Row(each, mark=place + 1) for place, each in enumerate(ids)]])
    (tmp_path / "vectors" / "run=zzz").mkdir()
    (tmp_path / "vectors" / "run=zzz" / "part-0.parquet").write_bytes(b"nobody committed this")
    vectors = open_vectors(str(tmp_path), "half", {}, key="recall.index")
    assert vectors.dim == 8
    read = [
        (int(key), float(row[0]))
        for batch in batches(vectors)
        for key, row in zip(batch.keys, batch.values, strict=True)
    ]
    assert sorted(read) == sorted(
        (int(keys_of(pa.array([each]), "")[0]), (place + 1) / 2) for place, each in enumerate(ids)
    )
    with pytest.raises(ConfigError, match=r"column vector is .*int8.*columns that are one: half"):
        open_vectors(str(tmp_path), "vector", {}, key="recall.index")


def test_a_sample_is_the_same_from_any_batches_and_as_large_as_it_may_be(tmp_path: Path) -> None:
    vectors = open_vectors(write_vectors(tmp_path / "v.parquet", random_vectors(100)), "vector", {}, key="x")
    small, whole = sample(batches(vectors, rows=7), 10), sample(batches(vectors), 10)
    np.testing.assert_array_equal(small.keys, whole.keys)
    np.testing.assert_array_equal(small.values, whole.values)
    assert len(sample(batches(vectors), 1000).keys) == 100


def lists(values: list[Any]) -> pa.Array:
    return pa.array(values, pa.list_(pa.float64()))


def test_vectors_of_other_writers_are_lists_of_any_float(tmp_path: Path) -> None:
    values = random_vectors(20)
    pq.write_table(pa.table({"id": range(20), "vector": lists(values.tolist())}), tmp_path / "v.parquet")
    assert report(str(tmp_path / "v.parquet")) == report(write_vectors(tmp_path / "f.parquet", values))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1, 2], "vector": lists([[1.0] * 8, [1.0] * 7])}, ["v.parquet", "other than 8 values"]),
        ({"id": [1, 2], "vector": lists([[1.0] * 8, None])}, ["v.parquet", "nulls"]),
        ({"id": [1, 2], "vector": lists([[1.0] * 8, [0.0] * 8])}, ["1 vectors", "zero norm"]),
        ({"id": [1, None], "vector": lists([[1.0] * 8] * 2)}, ["1 ids are null"]),
        ({"id": [1], "vector": lists([[1.0] * 8])}, ["1 items", "expected two items"]),
        ({"id": pa.nulls(0, pa.string()), "vector": lists([])}, ["no vector"]),
        ({"id": [1], "small": lists([[1.0]])}, ["no column vector", "columns that are one: small"]),
        ({"vector": lists([[1.0]])}, ["expected `id`"]),
    ],
)
def test_what_are_no_vectors_is_refused(tmp_path: Path, columns: dict[str, Any], words: list[str]) -> None:
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(LakevecError) as caught:
        report(str(tmp_path / "v.parquet"))
    assert caught.value.exit_code == 2
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_dims_that_the_vectors_do_not_have_are_refused() -> None:
    def dims(dim: int, **settings: Any) -> list[int]:
        specs = specs_of(RecallConfig.model_validate({"index": "x", **settings}), dim)
        return list(dict.fromkeys(spec.dim for spec in specs if spec.dim is not None))

    assert dims(2048) == [2048, 1024, 512, 256]
    assert dims(32) == [32, 16, 8]
    assert dims(20, dtypes=["int8"]) == [20]
    assert dims(32, dims=[5, 20], dtypes=["float32"]) == [20, 5]
    with pytest.raises(ConfigError, match=r"recall.dims: 64 is more than the 32 values"):
        dims(32, dims=[64, 8])
    with pytest.raises(ConfigError, match=r"recall.dims: 20 is no multiple of 8"):
        dims(32, dims=[20])


def test_queries_have_the_dim_of_the_index(tmp_path: Path) -> None:
    queries = write_vectors(tmp_path / "q.parquet", random_vectors(3)[:, :16].copy())
    with pytest.raises(ConfigError, match=r"recall.queries: vectors of 16 values, those of the index have 32"):
        report(write_vectors(tmp_path / "v.parquet", random_vectors(9)), queries=queries)


@given(st.permutations(range(6)), st.permutations(range(6)))
def test_tau_b_of_lists_of_the_same_documents_is_kendalls(first: list[int], second: list[int]) -> None:
    expected = kendalltau(np.argsort(first), np.argsort(second)).statistic
    assert tau_b(np.array(first, np.uint64), np.array(second, np.uint64)) == pytest.approx(expected)


def test_tau_b_of_equal_and_of_foreign_lists() -> None:
    one, other = np.array([3, 1, 2], np.uint64), np.array([7, 8, 9], np.uint64)
    assert tau_b(one, one) == 1.0
    # Of the 15 pairs of the union, 9 are in opposite orders and 6 tied in one list: −9 / 12.
    assert tau_b(one, other) == pytest.approx(-0.75)
    assert tau_b(one[:1], other[:1]) == -1.0


def test_the_picture_names_what_it_shows_and_is_the_same_every_time(tmp_path: Path) -> None:
    found = report(write_vectors(tmp_path / "v.parquet", random_vectors(40)), k=[2, 5], dtypes=["int8", "binary"])
    picture = recall_svg(found)
    assert picture == recall_svg(found)
    text = picture.decode()
    assert all(f"<!-- {words} -->" in text for words in ("recall@2", "recall@5", "int8", "binary"))
    assert "<!-- float16 -->" not in text
