"""The files of a manifest.

In: the manifest's path (a file, a folder or a glob; local or any fsspec URI). Out: its files in a stable order,
and the folder that relative URIs mean. The files of the job's own output are left out where it lies in the manifest's
folder. Refused: no file, files of several formats, unknown suffixes, a folder of the output's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import ManifestConfig
from pipeline.errors import LakevecError, ManifestError, scrub
from pipeline.manifest.output_folder import OutputFolder
from pipeline.manifest.search import WILD, files_below, fixed_folder, matches
from pipeline.storage import resolve
from pipeline.userinfo import without_userinfo

__all__ = ["Format", "Listing", "ManifestFile", "asking", "file_uri", "list_manifest", "refuse_own"]


class Format(StrEnum):
    """How a manifest file is written."""

    PARQUET = "parquet"
    CSV = "csv"
    JSONL = "jsonl"
    ORC = "orc"
    ARROW = "arrow"  # the stream format, as Hugging Face writes it


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file: a local absolute path or a URI, and its format; `names` are the columns of a CSV without a header."""

    uri: str
    format: Format
    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The manifest's files by name, and its own folder (local absolute path or URI, no slash at the end)."""

    folder: str
    files: tuple[ManifestFile, ...]


_SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
}
_RARE_SUFFIXES = {".orc": Format.ORC, ".arrow": Format.ARROW}
"""Of a folder's files only where it holds nothing else to read."""

_NAMED_SUFFIXES = _SUFFIXES | _RARE_SUFFIXES | {".json": Format.JSONL}
"""A folder may hold a stray settings.json; a .json that the user names is meant."""

_COMPRESSED = (".gz", ".zst", ".bz2")


def list_manifest(
    config: ManifestConfig,
    storage_options: Mapping[str, Mapping[str, Any]],
    output: str | None = None,
    *,
    may_be_empty: bool = False,
) -> Listing:
    """Find the manifest's files: those of a folder recursively, without names that start with `_` or `.`.

    What lakevec wrote to `output` (`output.path`) is left out, but a file that `manifest.path` itself names is read
    wherever it lies. Raises ManifestError when there is none (unless `may_be_empty`, of a folder), when formats mix,
    when the folder is one of the output's own, or when the store refuses the listing.
    """
    fs, path = resolve(config.path, storage_options)
    own = None if output is None else OutputFolder.of(output, storage_options)
    with asking(config):
        listing = _listing(config, fs, path, own)
        if not listing.files and not (may_be_empty and fs.isdir(path)):
            raise ManifestError(
                f"the manifest {config.path} has no files; expected {', '.join(_SUFFIXES)} "
                "(names that start with _ or . are left out, and what lakevec wrote to output.path)"
            )
        return listing


@contextmanager
def asking(config: ManifestConfig) -> Iterator[None]:
    """Turn what a store raises when it is asked about `manifest.path` into a ManifestError."""
    try:
        yield
    except LakevecError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system raises its own, botocore's are no OSError
        why = scrub(f"{type(error).__name__}: {error}")
        raise ManifestError(
            f"cannot list the manifest {without_userinfo(config.path)}: {why}; check manifest.path, the credentials "
            "and fetch.storage_options"
        ) from None


def _listing(config: ManifestConfig, fs: fsspec.AbstractFileSystem, path: str, output: OutputFolder | None) -> Listing:
    # A file may really be called `part[1].parquet`: what exists is no pattern.
    if fs.isfile(path):
        named, folder, paths = True, path.rpartition("/")[0], [path]
    elif fs.isdir(path):
        refuse_own(config, fs, path, output)
        named, folder, paths = False, path, _outside(output, fs, _readable(files_below(fs, path)))
    elif WILD & set(path):
        named, folder, paths = True, fixed_folder(path), _outside(output, fs, _matches(fs, path))
    else:
        raise ManifestError(f"the manifest {config.path} does not exist; check manifest.path")
    return Listing(file_uri(fs, folder or "/"), tuple(_with_formats(config, fs, paths, named)))


def refuse_own(config: ManifestConfig, fs: fsspec.AbstractFileSystem, path: str, output: OutputFolder | None) -> None:
    """Raise ManifestError if the folder `path` is one that lakevec writes."""
    if output and output.holds(fs, path):
        raise ManifestError(
            f"the manifest's folder {config.path} is part of the output {output.root}: lakevec would read its own "
            "tables as items; name the manifest's file, or give output.path a folder of its own"
        )


def _readable(paths: Iterable[str]) -> Iterator[str]:
    # Of the millions of other files that a lake's folder may hold no list is made.
    return (path for path in paths if _format_of(path, named=True))


def _with_formats(
    config: ManifestConfig, fs: fsspec.AbstractFileSystem, paths: list[str], named: bool
) -> list[ManifestFile]:
    forced = None if config.format == "auto" else Format(config.format)
    if not named and forced is None and not any(_format_of(path, named) for path in paths):
        paths, named = [path for path in paths if _suffix(path) in _RARE_SUFFIXES], True
    files: list[ManifestFile] = []
    for path in paths:
        found = _format_of(path, named)
        if named and forced is not None:
            found = forced
        elif found is None and named:
            raise ManifestError(f"{path} has no known suffix ({', '.join(_NAMED_SUFFIXES)}); set manifest.format")
        if found is not None and forced in (None, found):
            files.append(ManifestFile(file_uri(fs, path), found))
    first_of: dict[Format, str] = {}
    for file in files:
        first_of.setdefault(file.format, file.uri)
    if len(first_of) > 1:
        kinds = "; ".join(f"{kind}: {uri}" for kind, uri in first_of.items())
        raise ManifestError(f"the manifest {config.path} mixes formats ({kinds}); set manifest.format")
    return files


def _outside(output: OutputFolder | None, fs: fsspec.AbstractFileSystem, paths: Iterator[str]) -> list[str]:
    return sorted(path for path in paths if output is None or not output.holds(fs, path))


def _format_of(path: str, named: bool) -> Format | None:
    return (_NAMED_SUFFIXES if named else _SUFFIXES).get(_suffix(path))


def _suffix(path: str) -> str:
    name = PurePosixPath(path.lower())
    return name.with_suffix("").suffix if name.suffix in _COMPRESSED else name.suffix


def _matches(fs: fsspec.AbstractFileSystem, pattern: str) -> Iterator[str]:
    for path, is_folder in matches(fs, pattern):
        if is_folder:
            yield from (inner for inner in files_below(fs, path) if _format_of(inner, named=False))
        else:
            yield path


def file_uri(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """`path` of `fs` as any process can open it: a local path, or a URI."""
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
