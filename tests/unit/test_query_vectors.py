"""Query vectors out of Parquet that anybody wrote: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, ManifestError
from pipeline.retrieval.query_vectors import QueryVectors, open_queries
from tests.fixtures.vector_index import unit_vectors

VECTORS = unit_vectors(10, 6)


def opened(folder: Path, vector: Any, ids: Any = None, **columns: Any) -> QueryVectors:
    table = pa.table({"qid": ids or [f"q{n}" for n in range(len(vector))], "v": vector, **columns})
    pq.write_table(table, folder / "q.parquet", row_group_size=3)
    return open_queries(str(folder / "q.parquet"), "v", "qid", {})


def read(queries: QueryVectors, block: int = 4) -> Any:
    blocks = list(queries.blocks(block))
    assert [name for ids, _ in blocks for name in ids.to_pylist()] == [f"q{n}" for n in range(queries.n_rows)]
    return np.concatenate([vectors for _, vectors in blocks])


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float64(), 6), pa.large_list(pa.float64()), pa.list_(pa.float16(), 6)],
    ids=str,
)
def test_lists_of_any_float_are_vectors(tmp_path: Path, kind: pa.DataType) -> None:
    halves = VECTORS.astype(np.float16)
    queries = opened(tmp_path, pa.array(list(halves), pa.list_(pa.float16())).cast(kind))
    assert (queries.spec.dim, queries.n_rows) == (6, 10)
    np.testing.assert_array_equal(read(queries), halves.astype(np.float32))


def test_codes_with_their_scale_are_vectors(tmp_path: Path) -> None:
    codes = np.rint(VECTORS * 100).astype(np.int8)
    scale = pa.array(np.arange(1, 11, dtype=np.float32))
    queries = opened(tmp_path, pa.array(list(codes), pa.list_(pa.int8())), v_scale=scale)
    np.testing.assert_array_equal(read(queries), codes * scale.to_numpy()[:, None])


def test_a_folder_is_all_of_its_files_and_blocks_go_over_their_ends(tmp_path: Path) -> None:
    for number in range(5):
        ids = [f"q{2 * number}", f"q{2 * number + 1}"]
        table = pa.table({"id": ids, "v": pa.array(list(VECTORS[2 * number : 2 * number + 2]), pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / f"part-{number}.parquet")
    queries = open_queries(str(tmp_path), "v", "id", {})
    assert [len(ids) for ids, _ in queries.blocks(3)] == [3, 3, 3, 1]
    np.testing.assert_array_equal(read(queries, 3), VECTORS)


@pytest.mark.parametrize(
    ("vector", "ids", "said"),
    [
        ([[1, 2], [3, 4]], None, "expected lists of floats, or of int8 with a column v_scale"),
        (["a", "b"], None, "expected lists of floats"),
        ([[1.0, 2.0], None], None, "holds a null; leave such rows out"),
        ([[1.0, 2.0], [1.0]], None, "several lengths, the first one has 2"),
        ([[], [1.0]], None, "no vector in its first row"),
        ([[1.0], [2.0]], ["a", None], "'qid' holds a null"),
        ([[1.0], [2.0], [3.0], [4.0], [5.0]], ["a", "b", "c", "d", "a"], "query id 'a' is there twice"),
    ],
)
def test_what_is_no_table_of_vectors_is_refused(tmp_path: Path, vector: Any, ids: Any, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        read(opened(tmp_path, pa.array(vector), ids))


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"qid": ["b"]}, "later.parquet has no column 'v', as the first file has"),
        ({"qid": [7], "v": [[1.0]]}, "later.parquet: column 'qid' is int64, that of the first file string"),
        (None, "cannot read .*later.parquet"),
    ],
)
def test_a_later_file_unlike_the_first_is_named(tmp_path: Path, later: Any, said: str) -> None:
    opened(tmp_path, pa.array([[1.0]]))
    if later is None:
        (tmp_path / "r-later.parquet").write_bytes(b"PAR1 no more")
    else:
        pq.write_table(pa.table(later), tmp_path / "r-later.parquet")
    with pytest.raises(ManifestError, match=said):
        read(open_queries(str(tmp_path), "v", "qid", {}))


def test_columns_that_are_not_there_are_named(tmp_path: Path) -> None:
    opened(tmp_path, pa.array([[1.0]]))
    with pytest.raises(ConfigError, match="no column 'vector'; it has qid, v"):
        open_queries(str(tmp_path), "vector", "qid", {})
