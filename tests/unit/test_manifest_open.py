"""Where a manifest's files are, and what they may be: folders, globs, links, formats, files that go away."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.errors import ManifestError
from tests.fixtures.manifests import opened, rows_of, write_parquet, write_text


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


def test_a_store_that_breaks_off_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": ["1"], "text": ["t"]}))

    def broken(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    monkeypatch.setattr("pipeline.manifest.readers.parquet_batches", broken)
    with pytest.raises(ManifestError, match=r"m\.parquet was read: EndpointConnectionError.*run again"):
        list(manifest.batches())
