"""What the cells of a manifest mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.manifest.location import locate, scheme_of
from pipeline.types import MediaKind
from tests.fixtures.manifests import HF_IMAGE, opened, rows_of, write_jsonl, write_parquet

Refs = list[tuple[str, list[tuple[str | None, int, bool]]]]


def media_of(path: Path, **config: Any) -> list[Refs]:
    """Per row: kind, and per ref the URI without the folder, the index, and whether it was hashed."""
    found: list[Refs] = []
    for row in rows_of(opened(path, **config)):
        digests = iter(row.digests)
        found.append(
            [
                (
                    str(medium.kind),
                    [
                        (ref.uri and ref.uri.removeprefix(f"{path.parent}/"), ref.index, next(digests) is not None)
                        for ref in medium.refs
                    ],
                )
                for medium in row.media
            ]
        )
    return found


@pytest.mark.parametrize("column", ["image", "video"])
def test_every_form_of_media(tmp_path: Path, column: str) -> None:
    forms: list[tuple[pa.Array, list[Refs]]] = [
        (pa.array(["a", None]), [[(column, [("a", 0, False)])], []]),
        (pa.array([b"x", None], pa.binary()), [[(column, [(None, 0, True)])], []]),
        (pa.array([b"x", None], pa.large_binary()), [[(column, [(None, 0, True)])], []]),
        (
            pa.array([{"bytes": b"x", "path": "p"}, {"path": "p"}, {"bytes": None, "path": None}, None], HF_IMAGE),
            [[(column, [(None, 0, True)])], [(column, [("p", 0, False)])], [], []],
        ),
        (
            pa.array([["a", None, "b"], [], None]),
            [[(column, [("a", 0, False)]), (column, [("", 1, False)]), (column, [("b", 2, False)])], [], []],
        ),
        (
            pa.array([[{"bytes": b"", "path": None}, None, {"bytes": None, "path": "p"}], [None]], pa.list_(HF_IMAGE)),
            [
                [(column, [(None, 0, True)]), (column, [("", 1, False)]), (column, [("p", 2, False)])],
                [(column, [("", 0, False)])],
            ],
        ),
        (
            pa.array([[b"x", b"y"], None], pa.list_(pa.binary(), 2)),
            [[(column, [(None, 0, True)]), (column, [(None, 1, True)])], []],
        ),
        (pa.array([{"path": "p"}]), [[(column, [("p", 0, False)])]]),
    ]  # fmt: skip
    for i, (array, expected) in enumerate(forms):
        ids = [str(n) for n in range(len(array))]
        path = write_parquet(tmp_path / f"{i}.parquet", {"id": ids, column: array})
        assert media_of(path) == expected


def test_media_stand_in_prompt_order_and_frames_are_one_video(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "m.parquet",
        {"id": ["1", "2"], "image": [["i1", "i2"], []], "frames": [["f1", "f2"], []], "video": ["v", None]},
    )
    assert media_of(path) == [
        [
            ("video", [("v", 0, False)]),
            ("frames", [("f1", 0, False), ("f2", 1, False)]),
            ("image", [("i1", 0, False)]),
            ("image", [("i2", 1, False)]),
        ],
        [],
    ]


def test_sliced_and_null_lists_keep_their_own_elements(tmp_path: Path) -> None:
    lists = pa.array([["a"], ["b", "c"], None, ["d"]])
    hidden = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 4]), pa.array(list("wxyz")), mask=pa.array([False, True, False])
    )
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1", "2", "3"], "image": lists.slice(1), "video": hidden})
    assert media_of(path) == [
        [("video", [("w", 0, False)]), ("image", [("b", 0, False)]), ("image", [("c", 1, False)])],
        [],
        [("video", [("z", 0, False)]), ("image", [("d", 0, False)])],
    ]


def test_equal_bytes_have_equal_digests(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1", "2", "3"], "image": [b"x", b"y", b"x"]})
    a, b, c = (row.digests for row in rows_of(opened(path)))
    assert a == c != b


def test_absent_and_empty_texts_differ(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "m.jsonl", [{"id": "1", "text": ""}, {"id": "2", "text": None}, {"id": "3"}])
    assert [row.texts for row in rows_of(opened(path))] == [("",), (), ()]
    path = write_parquet(tmp_path / "l.parquet", {"id": ["1", "2", "3"], "text": [["a", None, ""], [], None]})
    assert [row.texts for row in rows_of(opened(path))] == [("a", ""), (), ()]


def test_renamed_columns(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "m.parquet", {"uid": ["1"], "text": ["no"], "caption": ["yes"], "img.path": ["a.png"]}
    )
    [row] = rows_of(opened(path, columns={"id": "uid", "text": "caption", "image": "img.path"}))
    assert (row.id, row.texts, row.media[0].refs[0].column) == ("1", ("yes",), "img.path")


def test_identity_columns_of_any_type(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "m.parquet",
        {
            "id": ["1", "2"],
            "image": ["a", "b"],
            "etag": ['"e"', None],
            "size": [7, None],
            "last_modified": pa.array([1_000, None], pa.timestamp("ms", "UTC")),
            "version": pa.array([b"\x01", None]),
            "content_hash": pa.array([{"md5": "x"}, None]),
        },
    )
    first, second = rows_of(opened(path))
    assert dict(first.identity) == {
        "content_hash": "{'md5': 'x'}", "etag": '"e"', "size": "7", "version": "b'\\x01'",
        "last_modified": "1970-01-01 00:00:01.000000Z",
    }  # fmt: skip
    assert second.identity == ()
    other = write_parquet(
        tmp_path / "n.parquet",
        {"id": ["1"], "image": ["a"], "last_modified": pa.array([10**9], pa.timestamp("ns", "UTC"))},
    )
    assert dict(rows_of(opened(other))[0].identity)["last_modified"] == dict(first.identity)["last_modified"]


def test_rows_count_from_the_start_of_each_file(tmp_path: Path) -> None:
    ids = [str(i) for i in range(25)]
    images = [bytes([i]) * 3_000_000 for i in range(25)]
    write_parquet(tmp_path / "a.parquet", {"id": ids, "image": images}, row_group_size=10)
    write_parquet(tmp_path / "b.parquet", {"id": ["z"], "image": [b"x"]})
    batches = list(opened(tmp_path).batches())
    assert [row.row for batch in batches for row in batch.rows] == [*range(25), 0]
    assert max(len(batch.rows) for batch in batches) <= 11, "a batch of inline media is bounded in bytes"


def test_limit_takes_the_first_rows_over_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_parquet(tmp_path / f"{name}.parquet", {"id": [f"{name}{i}" for i in range(3)], "text": ["t"] * 3})
    batches = opened(tmp_path).batches(4)
    assert [row.id for batch in batches for row in batch.rows] == ["a0", "a1", "a2", "b0"]


@pytest.mark.parametrize(
    ("folder", "uri", "expected"),
    [
        ("/lake/m", "a.png", "/lake/m/a.png"),
        ("/lake/m", "../b/a.png", "/lake/m/../b/a.png"),
        ("/lake/m", "/abs/a.png", "/abs/a.png"),
        ("/", "a.png", "/a.png"),
        ("/lake", "file:///x/a%20b.png", "/x/a b.png"),
        ("/lake", "file://localhost/x", "/x"),
        ("/lake", "file:/x/a%20b.png", "/x/a b.png"),
        ("s3://b/m", "FILE:/x", "/x"),
        ("/lake", "file:x", "/lake/file:x"),
        ("/lake", "file://host/x", "file://host/x"),
        ("/lake", "s3://b/k%20?#", "s3://b/k%20?#"),
        ("/lake", "a:b.png", "/lake/a:b.png"),
        ("/lake", "data:image/png;base64,AA", "data:image/png;base64,AA"),
        ("/lake", "", ""),
        ("s3://b/m", "a.png", "s3://b/m/a.png"),
        ("s3://b", "a.png", "s3://b/a.png"),
        ("s3://b/m/n", "../a.png", "s3://b/m/a.png"),
        ("s3://b/m", "../../../other/a.png", "s3://b/other/a.png"),
        ("s3://b/m", "/etc/passwd", "/etc/passwd"),
        ("s3://b/m", "S3://c/a", "S3://c/a"),
    ],
)
def test_locate(folder: str, uri: str, expected: str) -> None:
    assert locate(folder, uri) == expected


def test_schemes() -> None:
    assert [scheme_of(uri) for uri in ("S3://b/k", "/a", "a:b", "DATA:x", "gs://b")] == [
        "s3",
        "file",
        "file",
        "data",
        "gs",
    ]


def test_media_kinds_are_the_column_names_and_what_only_bytes_tell() -> None:
    assert {str(kind) for kind in MediaKind} == {"image", "video", "frames", "file"}
