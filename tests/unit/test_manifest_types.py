"""The types a manifest's columns and cells come in, and what they are inside: Arrow, CSV, JSON Lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ManifestError
from tests.fixtures.manifests import carried_of, opened, rows_of, write_jsonl, write_parquet, write_text


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_every_arrow_string_is_a_string(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array(["x", "y", None]).cast(kind)
    ids = pa.array(["1", "2", "3"]).cast(kind)
    listed = pa.array([["x"], [], None], pa.large_list(pa.string()))
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": ids, "text": values, "image": listed}))
    assert manifest.id_type == pa.string()
    assert [row.texts for row in rows_of(manifest)] == [("x",), ("y",), ()]
    assert [len(row.media) for row in rows_of(manifest)] == [1, 0, 0]


def test_a_file_may_lack_a_column_and_types_may_widen(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"id": ["1"], "text": ["t"], "n": pa.array([1], pa.int32())})
    write_parquet(tmp_path / "b.parquet", {"id": ["2"], "image": ["x.png"], "n": pa.array([2], pa.int64())})
    write_parquet(tmp_path / "c.parquet", {"id": ["3"], "text": ["u"]})
    manifest = opened(tmp_path, carry=["n"])
    assert [(len(row.texts), len(row.media)) for row in rows_of(manifest)] == [(1, 0), (0, 1), (1, 0)]
    assert carried_of(manifest).to_pydict() == {"n": [1, 2, None]}
    assert manifest.carry == (pa.field("n", pa.int64()),)


def test_carried_columns_keep_their_types(tmp_path: Path) -> None:
    carried = {
        "when": pa.array([0, 1], pa.timestamp("ms", "UTC")),
        "price": pa.array([1, None], pa.decimal128(9, 2)),
        "tags": pa.array([["a"], None]),
        "label": pa.array(["a", "b"]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "emb": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
    }
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1", "2"], "text": ["t", "u"], **carried})
    table = carried_of(opened(path, carry=list(carried)))
    types = {field.name: field.type for field in table.schema}
    assert types == {
        "when": pa.timestamp("ms", "UTC"), "price": pa.decimal128(9, 2), "tags": pa.list_(pa.string()),
        "label": pa.string(), "nothing": pa.null(), "emb": pa.list_(pa.float32(), 2),
    }  # fmt: skip
    assert table.column("label").to_pylist() == ["a", "b"]


def test_csv_cells(tmp_path: Path) -> None:
    text = '\ufeffid,text,image,fps,max_frames,instruction\n007,"a, ""b""\nc",,1.5,8,\n8,"",x.png,,,Find it\n9,,,,,\n'
    rows = rows_of(opened(write_text(tmp_path / "m.csv", text)))
    assert [row.id for row in rows] == ["007", "8", "9"]
    assert [row.texts for row in rows] == [('a, "b"\nc',), (), ()]  # an empty cell is absent, quoted or not
    assert [len(row.media) for row in rows] == [0, 1, 0]
    assert (rows[0].fps, rows[0].max_frames, rows[1].instruction) == (1.5, 8, "Find it")


def test_json_types_are_inferred_from_every_line_and_dates_stay_text(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": f"2024-01-{day:02}", "text": None, "n": 1} for day in range(1, 29)]
    rows[-1] |= {"image": [{"path": "a.png"}, {"path": "b.png"}], "n": 2.5, "text": ["x", "y"], "day": "2024-01-01"}
    manifest = opened(write_jsonl(tmp_path / "m.jsonl", rows), carry=["n", "day"])
    got = rows_of(manifest)
    assert got[0].id == "2024-01-01"
    assert got[-1].texts == ("x", "y")
    assert [medium.refs[0].index for medium in got[-1].media] == [0, 1]
    assert carried_of(manifest).column("n").to_pylist()[-2:] == [1.0, 2.5]
    assert carried_of(manifest).column("day").to_pylist()[-1] == "2024-01-01"


def test_long_json_files_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.json_lines._CHUNK_BYTES", 100)
    rows = [{"id": i, "text": "ü" * (i % 90)} for i in range(300)]
    got = rows_of(opened(write_jsonl(tmp_path / "m.jsonl", rows)))
    assert [(row.id, row.texts, row.row) for row in got] == [(str(r["id"]), (r["text"],), r["id"]) for r in rows]


def test_bad_json_lines_are_found_by_line_in_later_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.json_lines._CHUNK_BYTES", 64)
    good = [f'{{"id": {i}, "text": "{i:08}"}}\n' for i in range(10)]
    path = write_text(tmp_path / "m.jsonl", "".join(good) + '{"id": 10, "te\n')
    with pytest.raises(ManifestError) as error:
        opened(path)
    found = re.search(r"in row (\d+) \(row 0 is in line (\d+)\)", str(error.value))
    assert found is not None
    assert int(found[1]) + int(found[2]) == 11
    path.write_bytes("".join(good).encode() + b'{"id": 10, "text": "\xff"}\n')
    with pytest.raises(ManifestError, match="line 11 is no UTF-8"):
        opened(path)
