from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import VectorSpec
from pipeline.index.commits import Table
from pipeline.index.digest import EMPTY_DIGEST, add_digests, ids_digest
from pipeline.index.parquet import open_parquet, sha256_of, write_file
from pipeline.index.parts import entry_of, write_parts
from pipeline.schema import CARRY_PREFIX, PART_ROW
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import CARRY, HIDDEN_DIM, KIND, SPECS, Kind, Row, outcomes, part, rows_of

ROWS = [Row("1", mark=3, label="a"), Row("2", what="retry", mark=4), Row("3", mark=5), Row("4", what="fatal")]


def _write(store: Store, rows: list[Row], kind: Kind = KIND) -> list[dict[str, object]]:
    return write_parts(
        store, "run1", outcomes(rows, kind),
        id_type=kind.id_type, carry=kind.carry, specs=kind.specs, hidden_dim=HIDDEN_DIM, metadata={"model": "m"},
    )  # fmt: skip


def test_vectors_and_rejects_go_to_their_tables(store: Store) -> None:
    vectors, rejects = _write(store, ROWS)
    assert pa.Table.from_pylist([vectors, rejects], schema=PART_ROW).num_rows == 2
    assert (vectors["table"], vectors["rows"]) == ("vectors", 2)
    assert (rejects["table"], rejects["rows"]) == ("rejects", 2)
    assert vectors["ids_digest"] == ids_digest(["3", "1"])
    found = rows_of(store, [entry_of(vectors)], Table.VECTORS)
    assert [(row["id"], row["label"], row["vector"], row["vector_scale"]) for row in found] == [
        ("1", "a", [3] * 4, 0.5),
        ("3", None, [5] * 4, 0.5),
    ]
    said = rows_of(store, [entry_of(rejects)], Table.REJECTS)
    assert [(row["id"], row["retryable"], row["code"]) for row in said] == [
        ("2", True, "DECODE_TIMEOUT"),
        ("4", False, "IMAGE_UNREADABLE"),
    ]


def test_entry_tells_the_bytes_as_stored(store: Store) -> None:
    for row in _write(store, ROWS):
        entry = entry_of(row)
        data = store.read(entry.path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
        assert sha256_of(store, entry.path) == entry.sha256


def test_files_are_plain_parquet(tmp_path: object) -> None:
    store = open_store(str(tmp_path))
    vectors = entry_of(_write(store, ROWS)[0])
    with open_parquet(store, vectors.path) as parquet:
        schema = parquet.schema_arrow
        assert parquet.metadata.row_group(0).column(0).compression == "ZSTD"
        assert schema.names == [
            "id", "vector", "vector_scale", "half", "modality", "n_tokens", "n_visual_tokens", "n_frames",
            "truncated", "fingerprint", "content_hash", "label",
        ]  # fmt: skip
        assert schema.metadata[b"model"] == b"m"
        assert schema.field("vector").type == pa.list_(pa.int8(), 4)
        assert schema.field("half").type == pa.list_(pa.float16(), HIDDEN_DIM)
        for field in schema:
            assert b"ARROW:extension:name" not in (field.metadata or {})


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
def test_every_dtype_survives_bit_for_bit(tmp_path: object, dtype: str) -> None:
    spec = VectorSpec(name="v", dim=64, dtype=dtype)  # type: ignore[arg-type]
    kind = Kind(specs=(spec,))
    table = outcomes([Row(str(n), mark=n) for n in range(50)], kind)
    numpy_type = {"float32": "f4", "float16": "f2", "int8": "i1", "binary": "u1"}[dtype]
    width = 8 if dtype == "binary" else 64
    raw = np.random.default_rng(7).integers(0, 120, (50, width * np.dtype(numpy_type).itemsize), dtype=np.uint8)
    values = raw.view(numpy_type)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
    place = table.schema.get_field_index("v")
    table = table.set_column(place, table.schema.field("v"), column.cast(table.schema.field("v").type))
    store = open_store(str(tmp_path))
    (row,) = write_parts(
        store, "run1", table,
        id_type=pa.string(), carry=CARRY, specs=(spec,), hidden_dim=HIDDEN_DIM, metadata={},
    )  # fmt: skip
    with open_parquet(store, str(row["path"])) as parquet:
        back = parquet.read()["v"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    assert back.tobytes() == values.tobytes()


def test_integer_ids_get_their_type_back(tmp_path: object) -> None:
    store = open_store(str(tmp_path))
    vectors, rejects = part(store, ROWS, kind=Kind(id_type=pa.int64()))
    assert [row["id"] for row in rows_of(store, [vectors], Table.VECTORS)] == [1, 3]
    assert [row["id"] for row in rows_of(store, [rejects], Table.REJECTS)] == [2, 4]


def test_an_id_of_another_type_is_refused(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="x7"):
        part(open_store(str(tmp_path)), [Row("x7")], kind=Kind(id_type=pa.int64()))


def test_a_carried_column_may_bear_the_name_of_a_reject_column(tmp_path: object) -> None:
    kind = Kind(carry=(pa.field("detail", pa.string()),))
    table = outcomes([Row("1")], Kind(carry=())).append_column(CARRY_PREFIX + "detail", pa.array(["mine"]))
    store = open_store(str(tmp_path))
    (row,) = write_parts(
        store, "run1", table,
        id_type=pa.string(), carry=kind.carry, specs=SPECS, hidden_dim=HIDDEN_DIM, metadata={},
    )  # fmt: skip
    assert rows_of(store, [entry_of(row)], Table.VECTORS)[0]["detail"] == "mine"


def test_only_one_kind_of_row_writes_one_file(tmp_path: object) -> None:
    store = open_store(str(tmp_path))
    assert [row["table"] for row in _write(store, [Row("1")])] == ["vectors"]
    assert [row["table"] for row in _write(store, [Row("1", what="fatal")])] == ["rejects"]
    assert _write(store, []) == []
    assert len(store.list()) == 2


def test_row_groups_are_bounded_by_bytes(tmp_path: object) -> None:
    store = open_store(str(tmp_path))
    schema = pa.schema([pa.field("v", pa.list_(pa.float32(), 1024))])
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(20_000 * 1024, np.float32)), 1024)
    batch = pa.RecordBatch.from_arrays([values], schema=schema)
    entry = write_file(store, Table.VECTORS, "run1", schema, [batch])
    with open_parquet(store, entry.path) as parquet:
        groups = [parquet.metadata.row_group(n) for n in range(parquet.num_row_groups)]
        assert sum(group.num_rows for group in groups) == entry.rows == 20_000
        assert max(group.num_rows for group in groups) * 4096 <= 40 << 20
    assert pq.read_table(store.full(entry.path)).num_rows == 20_000


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20), st.randoms())
def test_the_digest_knows_no_order_and_adds_up(ids: list[str], random: object) -> None:
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ids_digest(shuffled) == ids_digest(ids)
    half = len(ids) // 2
    assert add_digests([ids_digest(ids[:half]), ids_digest(ids[half:])]) == ids_digest(ids)
    assert ids_digest([*ids, "one more"]) != ids_digest(ids)
    assert ids_digest([]) == EMPTY_DIGEST
