"""Lists of pictures and files that other tools write, row by row, and the bytes that lie in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import ManifestError
from pipeline.manifest.inline import InlineReader
from pipeline.manifest.manifest import Manifest
from pipeline.types import MediaKind
from tests.fixtures.lakes import save_to_disk
from tests.fixtures.manifests import HF_IMAGE, opened, rows_of, write_parquet

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def _inline_of(manifest: Manifest) -> list[bytes]:
    reader = InlineReader({})
    file = manifest.files[0].uri
    refs = [(batch.file, row, row.media[0].refs[0]) for batch in manifest.batches() for row in batch.rows]
    assert file == refs[0][0]
    return [reader.read(name, row.row, ref.column, ref.index) for name, row, ref in refs]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"SAMPLE_ID": [7], "URL": ["s3://b/1.jpg"], "TEXT": ["a cat"], "NSFW": ["x"]}, ("7", "a cat", "s3://b/1.jpg")),
        ({"url": ["s3://b/1.jpg"], "caption": ["a cat"]}, ("s3://b/1.jpg", "a cat", "s3://b/1.jpg")),
        ({"id": [8], "url": ["s3://b/1"], "text": ["a cat"], "width": [1], "height": [1]}, ("8", "a cat", "s3://b/1")),
        ({"uid": ["ab"], "url": ["s3://b/1"], "text": ["a cat"], "original_width": [1]}, ("ab", "a cat", "s3://b/1")),
    ],
)
def test_urls_with_captions_are_pictures(tmp_path: Path, columns: dict[str, Any], expected: tuple[str, ...]) -> None:
    row = rows_of(opened(write_parquet(tmp_path / "m.parquet", columns)))[0]
    assert (row.id, *row.texts, row.media[0].refs[0].uri) == expected
    assert row.media[0].kind is MediaKind.IMAGE


def test_a_web_corpus_with_urls_is_none(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "url": ["https://x.example"], "text": ["a page"]})
    assert rows_of(opened(path))[0].media == ()


def test_named_columns_stand_over_the_layout(tmp_path: Path) -> None:
    columns = {"url": ["s3://b/1.jpg"], "caption": ["a cat"], "name": ["n"], "title": ["t"]}
    row = rows_of(
        opened(
            write_parquet(tmp_path / "m.parquet", columns),
            columns={"id": "name", "text": "title"},
            layout="img2dataset",
        )
    )[0]
    assert (row.id, row.texts, row.media[0].refs[0].uri) == ("n", ("t",), "s3://b/1.jpg")


def test_failed_downloads_are_left_out_and_the_bytes_of_the_others_found(tmp_path: Path) -> None:
    n = 500
    status = ["failed_to_download" if i % 3 == 0 else "success" for i in range(n)]
    columns = {
        "url": [f"https://x.example/{i}" for i in range(n)], "caption": [f"c{i}" for i in range(n)],
        "key": [f"{i:09d}" for i in range(n)], "status": status,
        "jpg": [None if i % 3 == 0 else b"\xff\xd8\xff%d" % i for i in range(n)],
    }  # fmt: skip
    manifest = opened(write_parquet(tmp_path / "00000.parquet", columns, row_group_size=64))
    kept = [i for i in range(n) if i % 3]
    assert [row.id for row in rows_of(manifest)] == [f"{i:09d}" for i in kept]
    assert [row.row for row in rows_of(manifest)] == kept
    assert _inline_of(manifest) == [b"\xff\xd8\xff%d" % i for i in kept]
    assert manifest.skipped == {"not_downloaded": n - len(kept)}
    assert [found[2] for found in manifest.find(["000000004"])] == [4]
    assert [one for array in manifest.ids(10) for one in array.to_pylist()] == [f"{i:09d}" for i in kept[:10]]


def _binary_file(content: list[bytes | None] | None) -> dict[str, Any]:
    paths = ["file:/data/a.jpg", "s3a://b/c.mp4", "s3a://b/readme.md", "s3a://b/noname"]
    columns = {
        "path": paths,
        "modificationTime": pa.array([NOON] * 4, pa.timestamp("us", "UTC")),
        "length": [3, 4, 5, 6],
    }
    return columns if content is None else columns | {"content": pa.array(content, pa.binary())}


def test_spark_binary_files_by_path(tmp_path: Path) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", _binary_file(None)))
    rows = rows_of(manifest)
    assert [row.id for row in rows] == ["file:/data/a.jpg", "s3://b/c.mp4", "s3://b/noname"]
    assert [row.media[0].refs[0].uri for row in rows] == ["/data/a.jpg", "s3://b/c.mp4", "s3://b/noname"]
    assert rows[1].identity[0] == ("size", "4")
    assert rows[1].media[0].kind is MediaKind.FILE
    assert manifest.skipped == {"not_media": 1}


def test_spark_binary_files_with_content(tmp_path: Path) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", _binary_file([b"pic", None, b"doc", b"mov"])))
    assert _inline_of(manifest) == [b"pic", b"mov"]
    assert manifest.skipped == {"no_content": 1, "not_media": 1}


def test_spark_binary_files_of_which_one_has_no_content(tmp_path: Path) -> None:
    write_parquet(tmp_path / "m" / "1.parquet", _binary_file([b"pic", None, b"doc", b"mov"]))
    write_parquet(tmp_path / "m" / "2.parquet", _binary_file(None))
    manifest = opened(tmp_path / "m")
    assert all(row.media for row in rows_of(manifest)), "an item with nothing in it would embed NULL"
    assert manifest.skipped == {"no_content": 4, "not_media": 2}


def _pictures(start: int, n: int) -> pa.RecordBatch:
    images = pa.array([{"bytes": b"\xff\xd8\xff%d" % i, "path": None} for i in range(start, start + n)], HF_IMAGE)
    return pa.RecordBatch.from_arrays(
        [images, pa.array([f"c{i}" for i in range(start, start + n)])], ["img", "caption"]
    )


FEATURES = {"img": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}


def test_a_saved_dataset_has_its_rows_for_ids_however_it_is_cut(tmp_path: Path) -> None:
    cut = save_to_disk(tmp_path / "a", [[_pictures(0, 3), _pictures(3, 2)], [_pictures(5, 4)]], FEATURES)
    whole = save_to_disk(tmp_path / "b", [[_pictures(0, 9)]], FEATURES)
    for folder in (cut, whole):
        manifest = opened(folder)
        rows = rows_of(manifest)
        assert [(row.id, row.texts) for row in rows] == [(str(i), (f"c{i}",)) for i in range(9)]
        assert _inline_of(manifest) == [b"\xff\xd8\xff%d" % i for i in range(9)]


def test_splits_are_part_of_the_id(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_to_disk(tmp_path / "d" / split, [[_pictures(0, 2)]], FEATURES)
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}), encoding="utf-8")
    assert [row.id for row in rows_of(opened(tmp_path / "d"))] == ["train/0", "train/1", "test/0", "test/1"]


def test_the_hub_s_parquet_is_numbered_by_split(tmp_path: Path) -> None:
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    for name, start in [("test-00000-of-00001", 0), ("train-00000-of-00002", 0), ("train-00001-of-00002", 2)]:
        table = pa.Table.from_batches([_pictures(start, 2)]).replace_schema_metadata(metadata)
        write_parquet(tmp_path / "data" / f"{name}.parquet", table)
    manifest = opened(tmp_path)
    expected = ["data/test/0", "data/test/1", "data/train/0", "data/train/1", "data/train/2", "data/train/3"]
    assert [row.id for row in rows_of(manifest)] == expected
    assert [row.media[0].refs[0].column for row in rows_of(manifest)] == ["img"] * 6


def test_the_hub_s_parquet_with_an_id_is_plain(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"x", "path": None}], HF_IMAGE)
    path = write_parquet(tmp_path / "train-00000-of-00001.parquet", {"id": ["k"], "image": images})
    assert [row.id for row in rows_of(opened(path))] == ["k"]


def test_a_picked_or_a_cut_dataset_is_refused(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "a", [[_pictures(0, 3)]], FEATURES)
    data = (folder / "data-00000-of-00001.arrow").read_bytes()
    (folder / "data-00000-of-00001.arrow").write_bytes(data[:-100])
    with pytest.raises(ManifestError, match="cut short"):
        rows_of(opened(folder))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../x.arrow"}]}), encoding="utf-8")
    with pytest.raises(ManifestError, match="plain name"):
        opened(folder)
    (folder / "state.json").write_text(json.dumps({"_indices_data_files": [{"filename": "i"}]}), encoding="utf-8")
    with pytest.raises(ManifestError, match="flatten_indices"):
        opened(folder)
