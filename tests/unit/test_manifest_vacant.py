"""A medium that a list has no value for is missed: its item is a reject, and its row keeps a stable fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import FetchConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.identity import Identifier
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.work import from_work_table, to_work_table
from pipeline.policy import FetchPolicy
from pipeline.types import WorkItem
from tests.fixtures.manifests import HF_IMAGE, opened, rows_of, write_jsonl, write_parquet

VACANT: dict[str, tuple[str, pa.Array]] = {
    "uris": ("image", pa.array([["a.png", None]])),
    "one null alone": ("image", pa.array([[None]], pa.list_(pa.string()))),
    "videos": ("video", pa.array([[None, "a.png"]])),
    "frames": ("frames", pa.array([["a.png", None, "a.png"]])),
    "bytes": ("image", pa.array([[b"x", None]], pa.list_(pa.binary()))),
    "structs": ("image", pa.array([[{"bytes": b"x", "path": "a"}, None]], pa.list_(HF_IMAGE))),
    "empty structs": ("image", pa.array([[{"bytes": None, "path": None}]], pa.list_(HF_IMAGE))),
    "empty uri": ("image", pa.array([""])),
    "empty file uri": ("image", pa.array(["file://"])),
    "empty uri in a list": ("image", pa.array([["a.png", ""]])),
    "empty path": ("image", pa.array([{"bytes": None, "path": ""}], HF_IMAGE)),
}


def outcome(manifest: Manifest) -> object:
    """What comes of the manifest's only row, through the work list and back."""
    [row] = rows_of(manifest)
    item = WorkItem(row.id, row.texts, row.media, None, None, None, "f", manifest.files[0].uri, row.row, 0)
    [again] = from_work_table(to_work_table([item]))
    assert again == item
    with Fetcher(FetchPolicy.of(FetchConfig(), manifest.folder)) as fetcher:
        [(_, found)] = fetcher.load_many([again])
    return found


def identities(manifest: Manifest) -> list[Any]:
    policy = FetchPolicy.of(FetchConfig(), manifest.folder)
    with Fetcher(policy) as fetcher, Identifier(fetcher, "auto") as identifier:
        found = [known.identities for known in identifier.identify(rows_of(manifest))]
        identifier.check()
    return found


@pytest.mark.parametrize("name", VACANT)
def test_a_missing_member_rejects_its_item(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    column, values = VACANT[name]
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": ["1"], column: values}))
    found = outcome(manifest)
    assert isinstance(found, RejectError)
    assert found.code is RejectCode.NO_MEDIUM
    assert f"column {column!r}" in found.detail


def test_json_lines_too(tmp_path: Path) -> None:
    found = outcome(opened(write_jsonl(tmp_path / "m.jsonl", [{"id": "1", "image": [None], "text": "t"}])))
    assert isinstance(found, RejectError)
    assert (found.code, found.code.meaning.retryable) == (RejectCode.NO_MEDIUM, False)


def test_its_fingerprint_is_stable_and_changes_once_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")

    def known(image: list[str | None], **columns: Any) -> list[Any]:
        path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": pa.array([image]), **columns})
        return identities(opened(path))

    for columns in ({}, {"etag": ["e"]}, {"content_hash": ["h"]}):
        vacant = known(["a.png", None], **columns)
        assert vacant == known(["a.png", ""], **columns)
        assert len(vacant[0]) == 2
        assert vacant != known(["a.png", "a.png"], **columns)
        assert vacant != known(["a.png"], **columns)
        assert vacant != known([None, "a.png"], **columns)


def test_absent_cells_stay_absent(tmp_path: Path) -> None:
    columns = {"image": pa.array([None, None], pa.list_(pa.string())), "video": pa.array([{"path": None}, None])}
    rows = rows_of(opened(write_parquet(tmp_path / "m.parquet", {"id": ["1", "2"], **columns})))
    assert [row.media for row in rows] == [(), ()]
