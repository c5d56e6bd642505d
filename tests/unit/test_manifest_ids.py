"""A manifest's ids: strings inside, the same and with the same complaints when they are read alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ManifestError
from pipeline.manifest.readers import read_batches
from tests.fixtures.manifests import opened, rows_of, write_jsonl, write_parquet


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.uint64()])
def test_integer_ids_are_strings_inside_and_int64_outside(tmp_path: Path, kind: pa.DataType) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": pa.array([3, 1], kind), "text": ["a", "b"]}))
    assert manifest.id_type == pa.int64()
    assert [row.id for row in rows_of(manifest)] == ["3", "1"]


@pytest.mark.parametrize("limit", [None, 1, 3, 100])
def test_ids_are_those_of_the_rows_and_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    for name, ids in (("a", [1, 2]), ("b", [3, 4, 5])):
        write_parquet(tmp_path / f"{name}.parquet", {"n": pa.array(ids, pa.int32()), "text": ["t"] * len(ids)})
    manifest = opened(tmp_path, columns={"id": "n"})
    rows = [row.id for batch in manifest.batches(limit) for row in batch.rows]
    read = []

    def spy(file: Any, schema: Any, columns: Any, options: Any) -> Any:
        read.append(list(columns))
        return read_batches(file, schema, columns, options)

    monkeypatch.setattr("pipeline.manifest.source.read_batches", spy)
    found = list(manifest.ids(limit))
    assert [one for array in found for one in array.to_pylist()] == rows
    assert {array.type for array in found} == {pa.string()}
    assert read == [["n"]] * len(read)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_null_id_is_told_the_same_way_from_ids_alone(tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        path = write_parquet(tmp_path / "m.parquet", {"id": ["a", None, "c"], "text": ["t"] * 3})
    elif kind == "jsonl":
        path = write_jsonl(tmp_path / "m.jsonl", [{"id": "a", "text": "t"}, {"text": "t"}])
    else:
        path = tmp_path / "m.csv"
        path.write_text("id,text\na,t\n,t\n")
    said = []
    for ask in (opened(path).batches, opened(path).ids):
        with pytest.raises(ManifestError) as error:
            list(ask())
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "near row 1 " in said[0]
