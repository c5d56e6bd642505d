"""Which manifests are one, and what the others are told: column, expected, found, file."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.config import ManifestConfig, VectorSpec
from pipeline.errors import ManifestError
from pipeline.manifest.manifest import open_manifest
from pipeline.manifest.readers import read_batches
from tests.fixtures.manifests import carried_of, opened, rows_of, write_jsonl, write_parquet, write_text


def ids_of(path: Path, **config: Any) -> list[str]:
    return [row.id for row in rows_of(opened(path, **config))]


def test_folder_is_read_recursively_by_suffix_and_without_hidden_names(tmp_path: Path) -> None:
    for name in ("b.parquet", "a/c.pq", "_tmp.parquet", ".x/d.parquet", "_SUCCESS/e.parquet"):
        write_parquet(tmp_path / name, {"id": [name], "text": ["t"]})
    write_text(tmp_path / "README.md", "no manifest")
    write_text(tmp_path / "settings.json", "{}")
    assert ids_of(tmp_path) == ["a/c.pq", "b.parquet"]


def test_glob_takes_files_and_folders_and_a_literal_name_wins(tmp_path: Path) -> None:
    for name in ("d1/a.parquet", "d2/b.parquet", "e/c.parquet", "part[1].parquet"):
        write_parquet(tmp_path / name, {"id": [name], "text": ["t"]})
    assert ids_of(tmp_path / "d*") == ["d1/a.parquet", "d2/b.parquet"]
    assert ids_of(tmp_path / "*" / "*.parquet") == ["d1/a.parquet", "d2/b.parquet", "e/c.parquet"]
    assert ids_of(tmp_path / "part[1].parquet") == ["part[1].parquet"]


def test_relative_uris_mean_the_folder_of_the_manifest(tmp_path: Path) -> None:
    write_parquet(tmp_path / "m" / "x" / "a.parquet", {"id": ["1"], "image": ["img/1.png"]})
    for path in (tmp_path / "m" / "x" / "a.parquet", tmp_path / "m" / "x", tmp_path / "m" / "x" / "*.parquet"):
        [row] = rows_of(opened(path))
        assert row.media[0].refs[0].uri == str(tmp_path / "m" / "x" / "img" / "1.png")


def test_hidden_folders_are_no_part_of_a_glob_that_does_not_spell_them(tmp_path: Path) -> None:
    for name in ("a/m.parquet", "a/_temporary/x.parquet", ".y/z.parquet", "a/_kept.parquet"):
        write_parquet(tmp_path / name, {"id": [name], "text": ["t"]})
    assert ids_of(tmp_path / "**" / "*.parquet") == ["a/m.parquet"]
    assert ids_of(tmp_path / "*" / "_*.parquet") == ["a/_kept.parquet"]
    assert ids_of(tmp_path / "a" / "_temporary" / "*") == ["a/_temporary/x.parquet"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write_parquet(tmp_path / "elsewhere" / "b.parquet", {"id": ["b"], "text": ["t"]})
    write_parquet(tmp_path / "lake" / "a.parquet", {"id": ["a"], "text": ["t"]})
    (tmp_path / "lake" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lake" / "link2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "lake" / "self").symlink_to(".")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "lake")
    assert ids_of(tmp_path / "lake") == ["a", "b"]
    assert ids_of(tmp_path / "lake" / "l*k") == ["b", "a"]


def test_a_folder_that_may_not_be_looked_into_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "lake" / "shut" / "a.parquet", {"id": ["a"], "text": ["t"]})
    write_parquet(tmp_path / "lake" / "b.parquet", {"id": ["b"], "text": ["t"]})
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if str(path).endswith("shut"):  # tests may run as root, whom no mode bits keep out
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(ManifestError, match=r"cannot list the manifest .*PermissionError.*shut"):
        opened(tmp_path / "lake")


@pytest.mark.parametrize(
    ("name", "pack"), [("m.jsonl.gz", gzip.compress), ("m.csv.gz", gzip.compress), ("m.csv", lambda data: data)]
)
def test_compressed_text_manifests(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    text = "id,text\n1,a\n" if ".csv" in name else '{"id": "1", "text": "a"}\n'
    (tmp_path / name).write_bytes(pack(text.encode()))
    assert [(row.id, row.texts) for row in rows_of(opened(tmp_path / name))] == [("1", ("a",))]


def test_forced_format_reads_any_name(tmp_path: Path) -> None:
    write_text(tmp_path / "list.txt", "id,text\n7,a\n")
    assert ids_of(tmp_path / "list.txt", format="csv") == ["7"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.uint64()])
def test_integer_ids_are_strings_inside_and_int64_outside(tmp_path: Path, kind: pa.DataType) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": pa.array([3, 1], kind), "text": ["a", "b"]}))
    assert manifest.id_type == pa.int64()
    assert [row.id for row in rows_of(manifest)] == ["3", "1"]


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


def _schema(**columns: Any) -> Callable[[Path], Path]:
    return lambda folder: write_parquet(folder / "m.parquet", {"id": ["1"], "text": ["t"], **columns})


def _two(first: dict[str, Any], second: dict[str, Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_parquet(folder / "m" / "a.parquet", first)
        write_parquet(folder / "m" / "b.parquet", second)
        return folder / "m"

    return write


def _text(name: str, text: str) -> Callable[[Path], Path]:
    return lambda folder: write_text(folder / name, text)


def _bytes(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def _packed_parquet(folder: Path) -> Path:
    plain = write_parquet(folder / "m.parquet", {"id": ["1"], "text": ["t"]})
    return _bytes("m.parquet.gz", gzip.compress(plain.read_bytes()))(folder)


def _table(columns: dict[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: write_parquet(folder / "m.parquet", columns)


BAD: list[tuple[Callable[[Path], Path], dict[str, Any], list[str]]] = [
    (lambda folder: folder / "none.parquet", {}, ["none.parquet", "does not exist"]),
    (lambda folder: folder / "x*.parquet", {}, ["no files"]),
    (lambda folder: folder, {}, ["no files", ".parquet"]),
    (_text("m.tsv", "id\ttext\n"), {}, ["m.tsv", "manifest.format"]),
    (_table({"image_id": ["1"], "text": ["t"]}), {}, ["no column 'id'", "did you mean 'image_id'"]),
    (_table({"ID": ["1"], "text": ["t"]}), {}, ["no column 'id'", "did you mean 'ID'"]),
    (_table({"key": ["1"], "text": ["t"]}), {}, ["no column 'id'", "it has 'key', 'text'"]),
    (_schema(), {"columns": {"image": "imag"}}, ["manifest.columns.image", "'imag'", "no file has"]),
    (_schema(img=["x"]), {"columns": {"image": "imgs"}}, ["did you mean 'img'"]),
    (_table({"id": ["1"], "caption": ["t"]}), {}, ["none of the columns text, image, video, frames", "caption"]),
    (_schema(id=[1.5]), {}, ["'id'", "a string or an integer", "double"]),
    (_schema(id=pa.nulls(1)), {}, ["'id'", "expected a string or an integer", "null"]),
    (_schema(id=[b"x"]), {}, ["'id'", "binary"]),
    (_schema(id=[True]), {}, ["'id'", "bool"]),
    (_schema(text=[1]), {}, ["column 'text'", "a string or a list of strings", "int64"]),
    (_schema(text=[[1]]), {}, ["column 'text'", "list<element: int64>"]),
    (_schema(image=[3]), {}, ["column 'image'", "a URI (string), bytes, struct<bytes, path>", "int64"]),
    (_schema(image=[{"url": "x"}]), {}, ["column 'image'", "struct<url: string>"]),
    (_schema(image=[{"bytes": "x", "path": "y"}]), {}, ["column 'image'", "struct<bytes: string"]),
    (_schema(image=[[["x"]]]), {}, ["column 'image'", "list<"]),
    (_schema(video=[1.0]), {}, ["column 'video'", "double"]),
    (_schema(frames=["x.png"]), {}, ["column 'frames'", "a list of images", "found string"]),
    (_schema(instruction=[1]), {}, ["column 'instruction'", "a string", "int64"]),
    (_schema(fps=["1"]), {}, ["column 'fps'", "a number", "string"]),
    (_schema(fps=[True]), {}, ["column 'fps'", "bool"]),
    (_schema(max_frames=["8"]), {}, ["column 'max_frames'", "a number"]),
    (_two({"id": ["1"], "text": ["t"]}, {"id": [2], "text": ["t"]}), {}, ["a.parquet", "b.parquet", "'id'"]),
    (_two({"id": ["1"], "text": ["t"]}, {"text": ["t"]}), {}, ["b.parquet", "no column 'id'"]),
    (_two({"id": ["1"], "text": ["t"]}, {"id": ["2"], "text": [2]}), {}, ["b.parquet", "'text'", "int64"]),
    (
        _two({"id": ["1"], "text": ["t"], "n": [1]}, {"id": ["2"], "text": ["t"], "n": ["x"]}),
        {"carry": ["n"]}, ["'n' (carry)", "string in", "b.parquet", "int64 in", "a.parquet"],
    ),
    (_schema(), {"carry": ["lable"]}, ["manifest.carry", "'lable'", "no file has"]),
    (_schema(label=["x"]), {"carry": ["lable"]}, ["did you mean 'label'"]),
    (_schema(), {"carry": ["id"]}, ["'id'", "already"]),
    (_schema(modality=["x"]), {"carry": ["modality"]}, ["'modality'", "already"]),
    (_schema(v=["x"]), {"carry": ["v"]}, ["'v'", "already"]),
    (_schema(V_scale=["x"]), {"carry": ["V_scale"]}, ["'V_scale'", "'v_scale' already"]),
    (_schema(x=["x"]), {"carry": ["x", "x"]}, ["'x'", "already"]),
    (_text("m.csv", "id,text,id\n1,a,2\n"), {}, ["2 columns 'id'"]),
    (_text("m.csv", "id,frames\n1,a\n"), {}, ["'frames'", "CSV cell cannot hold"]),
    (_text("m.csv", ""), {}, ["m.csv", "Empty CSV"]),
    (_text("m.parquet", "PAR1 no"), {}, ["cannot read", "m.parquet"]),
    (_text("m.parquet", ""), {}, ["cannot read", "m.parquet"]),
    (_text("m.jsonl", '{"id": 1, "text": "a"\n{"id": 2}\n'), {}, ["cannot read", "m.jsonl"]),
    (_text("m.jsonl", '{"id": 1, "text": "a"}\n{"id": "b"}\n'), {}, ["/id", "number to string"]),
    (_text("m.jsonl", '{"id": "1", "image": {"bytes": "aGk=", "path": null}}\n'), {}, ["column 'image'", "bytes"]),
    (_text("m.json", '[{"id": 1, "text": "a"}]'), {}, ["m.json", "JSON array", "one object a line"]),
    (_packed_parquet, {}, ["m.parquet.gz", "compressed as a whole"]),
    (_bytes("m.csv", "id,text\n1,a\n".encode("utf-16")), {}, ["m.csv", "UTF-16", "expected UTF-8"]),
    (_bytes("m.jsonl", b'{"id": 1}\n{"id": 2, "text": "\xff"}\n'), {}, ["m.jsonl", "line 2 is no UTF-8"]),
    (_text("m.jsonl", "\n\n"), {}, ["no rows"]),
    (_text("m.jsonl", ""), {}, ["no rows"]),
]  # fmt: skip


@pytest.mark.parametrize(("write", "config", "said"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_manifests_are_refused_before_rows_are_read(
    tmp_path: Path, write: Callable[[Path], Path], config: dict[str, Any], said: list[str]
) -> None:
    manifest = ManifestConfig(path=str(write(tmp_path)), **config)
    with pytest.raises(ManifestError) as error:
        open_manifest(manifest, {}, vectors=[VectorSpec(name="v", dim=8)])
    for words in said:
        assert words in str(error.value)


BAD_ROWS: list[tuple[Callable[[Path], Path], list[str]]] = [
    (_table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), ["no rows", "1 file"]),
    (_text("m.csv", "id,text\n"), ["no rows"]),
    (_table({"id": ["a", None, "b", None], "text": list("wxyz")}), ["'id'", "null in 2 rows", "rows 1, 3"]),
    (_text("m.csv", "id,text\n1,a\n,b\n"), ["'id'", "null", "rows 1"]),
    (_text("m.csv", "id,text\n1,a\n2\n"), ["m.csv", "Expected 2 columns, got 1"]),
    (_text("m.csv", "id,text,fps\n7,a,1\n8,b,\n9,c,abc\n"), ["'fps'", "a number", "'abc' (id '9', row 2)"]),
    (_text("m.csv", "id,text,max_frames\n7,a,8\n9,c,x8\n"), ["'max_frames'", "a number", "'x8' (id '9', row 1)"]),
    (_schema(fps=[0.0]), ["'fps'", "0.0 (id '1', row 0)"]),
    (_schema(fps=[-1]), ["'fps'", "-1.0"]),
    (_schema(fps=[float("nan")]), ["'fps'", "nan"]),
    (_schema(fps=[float("inf")]), ["'fps'", "inf"]),
    (_schema(max_frames=[1]), ["'max_frames'", "2 or more", "1.0"]),
    (_schema(max_frames=[2.5]), ["'max_frames'", "2.5"]),
    (_schema(max_frames=[2**40]), ["'max_frames'"]),
    (_schema(id=pa.array([2**63], pa.uint64())), ["'id'", "m.parquet", "up to 2^63 - 1", f"{2**63} (row 0)"]),
    (_schema(id=["k" * 10**6], fps=[0.0]), ["'fps'", "kkk…"]),
]


@pytest.mark.parametrize(("write", "said"), BAD_ROWS, ids=[str(i) for i in range(len(BAD_ROWS))])
def test_bad_rows_are_named(tmp_path: Path, write: Callable[[Path], Path], said: list[str]) -> None:
    path = write(tmp_path)
    with pytest.raises(ManifestError) as error:
        rows_of(opened(path))
    for words in said:
        assert words in str(error.value)


@pytest.mark.parametrize("name", ["m.parquet", "m.jsonl", "m.csv"])
def test_broken_utf8_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        broken = pa.StringArray.from_buffers(1, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff"))
        write_parquet(path, {"id": ["1"], "text": broken})
    else:
        path.write_bytes(b'{"id": "1", "text": "\xff"}\n' if name.endswith("jsonl") else b"id,text\n1,\xff\n")
    with pytest.raises(ManifestError, match=name):
        rows_of(opened(path))


def test_formats_do_not_mix(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"id": ["1"], "text": ["t"]})
    write_text(tmp_path / "b.csv", "id,text\n1,t\n")
    with pytest.raises(ManifestError, match=r"mixes formats.*a\.parquet.*b\.csv"):
        opened(tmp_path)
    assert ids_of(tmp_path, format="parquet") == ["1"]


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "text": ["t"]})
    manifest = opened(path)
    path.unlink()
    with pytest.raises(ManifestError, match=r"m\.parquet is gone"):
        rows_of(manifest)


class _Spying(pa.ExtensionType):  # type: ignore[misc]
    """Stands for a type of Ray that a library registered: reading it would run foreign code."""

    unpacked: list[bytes] = []  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.float32()), "ray.data.arrow_tensor_spy")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"payload"

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage: pa.DataType, data: bytes) -> _Spying:
        cls.unpacked.append(data)
        return cls()


def test_ray_extension_types_are_refused_unread(tmp_path: Path) -> None:
    kind = _Spying()
    storage = pa.array([[1.0]], kind.storage_type)
    table = pa.table({"id": ["1"], "text": ["t"], "x": pa.ExtensionArray.from_storage(kind, storage)})
    pq.write_table(table, tmp_path / "m.parquet")
    pa.register_extension_type(kind)
    try:
        with pytest.raises(ManifestError, match=r"m\.parquet.*ray\.data\.arrow_tensor_spy"):
            opened(tmp_path / "m.parquet")
        assert _Spying.unpacked == []
        pq.read_schema(tmp_path / "m.parquet")
        assert b"payload" in _Spying.unpacked, "the spy must see what an ordinary reader does"
    finally:
        pa.unregister_extension_type("ray.data.arrow_tensor_spy")
        _Spying.unpacked.clear()


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

    monkeypatch.setattr("pipeline.manifest.manifest.read_batches", spy)
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


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"key": ["a", None]}, "column 'key' (id)"),
        ({"key": pa.array([1, 2**63], pa.uint64())}, "column 'key' (id)"),
        ({"key": ["a", "b"], "rate": [1.0, 0.0]}, "column 'rate' (fps)"),
        ({"key": ["a", "b"], "most": [2, 1]}, "column 'most' (max_frames)"),
    ],
)
def test_messages_name_renamed_columns_as_the_file_has_them(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"text": ["t", "u"], **columns})
    renamed = {role: name for role, name in (("id", "key"), ("fps", "rate"), ("max_frames", "most")) if name in columns}
    manifest = opened(path, columns=renamed)
    with pytest.raises(ManifestError) as error:
        rows_of(manifest)
    assert f"{said} of {path}" in str(error.value)
    if "(id)" in said:
        with pytest.raises(ManifestError) as from_ids:
            list(manifest.ids())
        assert str(from_ids.value) == str(error.value)


def test_a_store_that_breaks_off_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": ["1"], "text": ["t"]}))

    def broken(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr("pipeline.manifest.readers.parquet_batches", broken)
    with pytest.raises(ManifestError, match=r"m\.parquet was read: EndpointConnectionError.*run again"):
        list(manifest.batches())
