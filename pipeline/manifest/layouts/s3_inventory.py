"""A delivery of S3 Inventory: the data files that its `manifest.json` or Hive's `symlink.txt` names.

In: a path. Out: a `Delivery`, the newest where a folder holds several, or None where there is none. A copy of the
inventory in another place is read from the `data` folder beside it. Refused with ManifestError: deliveries without
files, CSV without its `manifest.json` (only that knows the columns), unknown formats.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ManifestError
from pipeline.manifest.listing import Format, ManifestFile, file_uri
from pipeline.manifest.search import WILD

__all__ = ["Delivery", "find_delivery"]

_MANIFEST, _SYMLINK = "manifest.json", "symlink.txt"
_KEYS = ("sourceBucket", "destinationBucket", "fileFormat", "fileSchema", "files")
_HEAD_BYTES = 4096
"""The keys that tell an inventory's manifest.json from a file of JSON Lines stand before its list of files."""

_FORMATS = {"PARQUET": Format.PARQUET, "ORC": Format.ORC, "CSV": Format.CSV}
_SUFFIXES = {".parquet": Format.PARQUET, ".orc": Format.ORC}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The data files of one inventory report; keys are URL-encoded in CSV (`encoded`)."""

    files: tuple[ManifestFile, ...]
    encoded: bool


def find_delivery(fs: fsspec.AbstractFileSystem, path: str) -> Delivery | None:
    """The delivery that `path` (a file, a folder or a glob of `fs`) means, if any. Raises ManifestError."""
    name = path.rpartition("/")[2]
    if name in (_MANIFEST, _SYMLINK) and WILD & set(path) and not fs.exists(path):
        path = max(fs.glob(path), default=path)  # dates sort as text
    if name == _SYMLINK and fs.isfile(path):
        return _of_symlink(fs, path)
    if name == _MANIFEST and fs.isfile(path):
        return _of_manifest(fs, path)
    return _below(fs, path) if not WILD & set(path) and fs.isdir(path) else None


def _below(fs: fsspec.AbstractFileSystem, folder: str) -> Delivery | None:
    if fs.exists(f"{folder}/{_SYMLINK}"):
        return _of_symlink(fs, f"{folder}/{_SYMLINK}")
    if fs.exists(f"{folder}/{_MANIFEST}") and (found := _of_manifest(fs, f"{folder}/{_MANIFEST}")):
        return found
    hive = folder if folder.endswith("/hive") else f"{folder}/hive"
    if not fs.isdir(hive):
        return None
    newest = max(fs.glob(f"{hive}/dt=*/{_SYMLINK}"), default=None)
    if newest is None:
        return None
    manifest = f"{hive.rpartition('/')[0]}/{_stamp(newest)}/{_MANIFEST}"
    return (_of_manifest(fs, manifest) if fs.exists(manifest) else None) or _of_symlink(fs, newest)


def _stamp(symlink: str) -> str:
    # hive/dt=2026-01-31-01-00 belongs to 2026-01-31T01-00Z.
    parts = symlink.split("/")[-2].removeprefix("dt=").split("-")
    return f"{'-'.join(parts[:3])}T{'-'.join(parts[3:])}Z"


def _of_manifest(fs: fsspec.AbstractFileSystem, path: str) -> Delivery | None:
    head = fs.cat_file(path, start=0, end=_HEAD_BYTES)
    if b'"sourceBucket"' not in head:
        return None
    found = _json(path, fs.cat_file(path))
    file_format = _FORMATS.get(str(found["fileFormat"]).upper())
    if file_format is None:
        raise ManifestError(f"{path} names the format {found['fileFormat']!r}; expected CSV, ORC or Parquet")
    names = None
    if file_format is Format.CSV:
        names = tuple(name.strip() for name in str(found["fileSchema"]).split(","))
    bucket = str(found["destinationBucket"]).rpartition(":")[2]
    root = path.rpartition("/")[0].rpartition("/")[0]
    keys = [str(one.get("key")) for one in found["files"] if isinstance(one, dict)]
    return _delivery(path, [_place(fs, path, root, f"{bucket}/{key}") for key in keys], file_format, names)


def _of_symlink(fs: fsspec.AbstractFileSystem, path: str) -> Delivery:
    lines = [line.strip() for line in fs.cat_file(path).decode("utf-8", "replace").splitlines() if line.strip()]
    root = path.rpartition("/")[0].rpartition("/")[0].rpartition("/")[0]
    formats = {_SUFFIXES.get(PurePosixPath(line).suffix.lower()) for line in lines}
    if lines and (len(formats) > 1 or None in formats):
        raise ManifestError(
            f"{path} names {PurePosixPath(lines[0]).name}; expected .parquet or .orc files; name the delivery's "
            "manifest.json, which knows the columns of CSV"
        )
    if bad := [line for line in lines if not line.startswith("s3://")]:
        raise ManifestError(f"{path} names {bad[0]}; expected s3://… of the inventory's own bucket")
    places = [_place(fs, path, root, line.removeprefix("s3://")) for line in lines]
    return _delivery(path, places, formats.pop() if formats else None, None)


def _delivery(path: str, places: Sequence[str], file_format: Format | None, names: tuple[str, ...] | None) -> Delivery:
    if not places or file_format is None:
        raise ManifestError(f"the inventory's {path} lists no files")
    files = tuple(ManifestFile(place, file_format, names) for place in places)
    return Delivery(files, encoded=file_format is Format.CSV)


def _place(fs: fsspec.AbstractFileSystem, path: str, root: str, named: str) -> str:
    # Where the inventory was delivered to it is read as named; a copy has its files beside it.
    delivered = not isinstance(fs, LocalFileSystem) and named.partition("/")[0] == path.partition("/")[0]
    return file_uri(fs, named if delivered else f"{root}/data/{named.rpartition('/')[2]}")


def _json(path: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ManifestError(f"{path} is no JSON: {error}") from None
    lacking = [key for key in _KEYS if not isinstance(found, dict) or key not in found]
    if lacking:
        raise ManifestError(f"{path} lacks {', '.join(lacking)}, which the manifest of an S3 Inventory has")
    return dict(found)
