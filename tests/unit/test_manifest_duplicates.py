"""Duplicate ids are told with the files and rows that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import DuplicateIdsError, ManifestError
from pipeline.manifest.duplicates import naming_duplicates
from tests.fixtures.manifests import opened, write_jsonl, write_parquet


def told(manifest: Path, rows: dict[str, int], limit: int | None = None, **config: dict[str, str]) -> str:
    with pytest.raises(ManifestError) as error, naming_duplicates(opened(manifest, **config), limit):
        raise DuplicateIdsError(7, rows)
    return str(error.value)


def test_files_and_rows_are_named(tmp_path: Path) -> None:
    a = write_parquet(tmp_path / "a.parquet", {"key": ["x", "y", "x"], "text": ["t"] * 3})
    b = write_parquet(tmp_path / "b.parquet", {"key": ["z", "y", "x"], "text": ["t"] * 3})
    said = told(tmp_path, {"x": 3, "y": 2}, columns={"id": "key"})
    assert f"column 'key' (id) of the manifest {tmp_path} has 7 duplicate ids; expected each id once" in said
    assert f"found 'x' (3 rows) {a} row 0, {a} row 2; 'y' (2 rows) {a} row 1, {b} row 1 (rows from 0)" in said


def test_integers_and_limits(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "m.jsonl", [{"id": n % 3, "text": "t"} for n in range(9)])
    assert f"'1' (3 rows) {path} row 1, {path} row 4 (rows" in told(path, {"1": 3})
    assert f"'1' (2 rows) {path} row 1 (rows" in told(path, {"1": 2}, limit=3)


def test_a_manifest_that_is_gone_by_then_hides_nothing(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["x", "x"], "text": ["t", "t"]})
    manifest = opened(path)
    path.unlink()
    with pytest.raises(ManifestError, match=r"7 duplicate ids.*'x' \(2 rows\)"), naming_duplicates(manifest, None):
        raise DuplicateIdsError(7, {"x": 2})


def test_long_ids_are_cut(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["k" * 10_000] * 2, "text": ["t", "t"]})
    assert len(told(path, {"k" * 10_000: 2})) < 1000


def test_other_errors_pass(tmp_path: Path) -> None:
    manifest = opened(write_parquet(tmp_path / "m.parquet", {"id": ["x"], "text": ["t"]}))
    with pytest.raises(ManifestError, match=r"^something else$"), naming_duplicates(manifest, None):
        raise ManifestError("something else")
