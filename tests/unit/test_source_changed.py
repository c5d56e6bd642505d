"""Files that change between planning and reading: rejected tonight, embedded tomorrow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.storage import open_store
from pipeline.types import LoadedItem, WorkItem
from tests.fixtures.index_cases import Row, part
from tests.fixtures.manifests import job_config, write_parquet
from tests.fixtures.s3_server import S3Server
from tests.unit.test_plan import planned, work_of


def loaded(config: Config, items: list[WorkItem]) -> dict[str, bytes | RejectCode]:
    """What a worker gets for each of `items`: its first file, or why not."""
    with Fetcher(FetchPolicy.of(config.fetch, os.path.dirname(config.manifest.path))) as fetcher:
        return {
            item.id: got.media[0].blobs[0] if isinstance(got, LoadedItem) else got.code
            for item, got in fetcher.load_many(items)
        }


def inline(folder: Path) -> None:
    write_parquet(folder / "m.parquet", {"id": ["1", "2"], "image": [b"old", b"new"]})


def touch(folder: Path) -> None:
    os.utime(folder / "2.png", ns=(5, 5))


def rewrite(folder: Path) -> None:
    (folder / "2.png").write_bytes(b"new")


CASES: dict[str, tuple[dict[str, Any], str, bytes | None, Callable[[Path], None]]] = {
    "touched": ({}, "auto", b"old", touch),
    "rewritten": ({}, "head", b"older", rewrite),
    "hashed": ({}, "content", b"odd", rewrite),
    "came": ({}, "list", None, rewrite),
    "given": ({"size": [3, 5]}, "auto", b"older", rewrite),
    "inline": ({"image": [b"old", b"odd"]}, "trust", None, inline),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_replaced_after_planning_waits_for_the_next_night(tmp_path: Path, name: str) -> None:
    columns, mode, before, change = CASES[name]
    (tmp_path / "1.png").write_bytes(b"old")
    if before is not None:
        (tmp_path / "2.png").write_bytes(before)
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1", "2"], "image": ["1.png", "2.png"], **columns})
    config = job_config(path, tmp_path / "out", inputs={"identity": mode})
    work = work_of(config, planned(config))
    change(tmp_path)
    assert loaded(config, work) == {"1": b"old", "2": RejectCode.SOURCE_CHANGED}

    rows = [Row(item.id, item.fingerprint, "vector" if item.id == "1" else "retry") for item in work]
    live = part(open_store(config.output.path), rows)
    if name == "given":
        write_parquet(path, {"id": ["1", "2"], "image": ["1.png", "2.png"], "size": [3, 3]})
    again = work_of(config, planned(config, live=live))
    assert [item.id for item in again] == ["2"]
    now = b"new" if name == "inline" else (tmp_path / "2.png").read_bytes()
    assert loaded(config, again) == {"2": now}


@pytest.mark.parametrize("mode", ["auto", "content"])
def test_a_file_that_was_sound_when_planned_is_not_given_up(tmp_path: Path, mode: str) -> None:
    for name in ("gone", "cut", "grew", "never"):
        (tmp_path / name).write_bytes(b"" if name == "never" else name[:3].encode())
    names = ["gone", "cut", "grew", "never", "missing"]
    path = write_parquet(tmp_path / "m.parquet", {"id": names, "image": names})
    config = job_config(path, tmp_path / "out", inputs={"identity": mode}, fetch={"max_bytes": 3})
    work = work_of(config, planned(config))
    (tmp_path / "gone").unlink()
    (tmp_path / "cut").write_bytes(b"")
    (tmp_path / "grew").write_bytes(b"older")
    assert loaded(config, work) == {
        **dict.fromkeys(("gone", "cut", "grew"), RejectCode.SOURCE_CHANGED),
        "never": RejectCode.EMPTY_MEDIA,
        "missing": RejectCode.NOT_FOUND,
    }


def test_trust_compares_nothing(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"old")
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": ["1.png"], "size": [99], "etag": ["0" * 32]})
    for mode, found in (("auto", RejectCode.SOURCE_CHANGED), ("trust", b"old")):
        config = job_config(path, tmp_path / mode, inputs={"identity": mode})
        assert loaded(config, work_of(config, planned(config))) == {"1": found}


@pytest.mark.parametrize("change", ["longer", "shorter", "touched"])
def test_a_file_written_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    read = os.read

    def meanwhile(handle: int, size: int) -> bytes:
        if change == "touched":
            os.utime(path, ns=(5, 5))
        else:
            path.write_bytes(b"y" * (1001 if change == "longer" else 10))
        return read(handle, size)

    monkeypatch.setattr("pipeline.local_files.os.read", meanwhile)
    config = job_config(tmp_path / "m.parquet", tmp_path / "out")
    with Fetcher(FetchPolicy.of(config.fetch, str(tmp_path))) as fetcher:
        for reading in (fetcher.fetch, fetcher.digest):
            with pytest.raises(RejectError) as error:
                reading(str(path))
            assert error.value.code is RejectCode.SOURCE_CHANGED
            path.write_bytes(b"x" * 1000)


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["head", "list", "content", "auto"])
def test_an_object_replaced_after_planning(s3_server: S3Server, tmp_path: Path, mode: str) -> None:
    bucket = s3_server.make_bucket(f"changed-{mode}")
    fs = s3_server.filesystem
    fs.pipe_file(f"{bucket}/a.png", b"old")
    fs.pipe_file(f"{bucket}/b.png", b"odd")  # of another content: equal ones are fetched once
    columns: dict[str, Any] = {"id": ["1", "2"], "image": [f"{bucket}/a.png", f"{bucket}/b.png"]}
    if mode == "auto":  # an inventory writes ETags without quotes
        columns["etag"] = [fs.info(f"{bucket}/{name}.png")["ETag"].strip('"') for name in "ab"]
    path = write_parquet(tmp_path / "m.parquet", columns)
    options = {"storage_options": s3_server.storage_options}
    config = job_config(path, tmp_path / "out", inputs={"identity": mode}, fetch=options)
    work = work_of(config, planned(config))
    fs.pipe_file(f"{bucket}/b.png", b"new")
    assert loaded(config, work) == {"1": b"old", "2": RejectCode.SOURCE_CHANGED}
