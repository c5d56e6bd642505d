"""Which manifests and rows are refused, and what is said: column, expected, found, file."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ManifestConfig, VectorSpec
from pipeline.errors import ManifestError
from pipeline.manifest.manifest import open_manifest
from tests.fixtures.manifests import opened, rows_of, write_parquet, write_text


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


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_a_text_file_of_another_encoding_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"id": "1", "text": "\xff"}\n' if name.endswith("jsonl") else b"id,text\n1,\xff\n")
    with pytest.raises(ManifestError, match=name):
        rows_of(opened(path))


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
