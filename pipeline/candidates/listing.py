"""The files that hold candidate lists, and the format they are in.

In: `candidates.path` and `candidates.format`. Out: files in a stable order, each with one format for all; of the output
of `retrieve_candidates` those of its newest complete run. Refused with ManifestError: no file, files that are none of
the known formats, files of several, an output without a complete run; with ConfigError what cannot be listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import fsspec

from pipeline.candidate_runs import RUN_COPY, newest_lists
from pipeline.candidates.lines import lines_of
from pipeline.errors import ManifestError
from pipeline.manifest.listing import Format, ManifestFile, file_uri
from pipeline.manifest.naming import shown
from pipeline.manifest.readers import Options, read_schema
from pipeline.manifest.search import WILD, files_below, matches
from pipeline.opening import opening
from pipeline.storage import open_store, resolve
from pipeline.userinfo import without_userinfo

__all__ = ["BEIR_FILES", "CandidateFormat", "CandidateListing", "list_candidates"]

BEIR_FILES = ("corpus.jsonl", "queries.jsonl")
"""A folder with both is a BEIR data set."""


class CandidateFormat(StrEnum):
    """How candidate lists are written."""

    PAIRS = "pairs"
    LISTS = "lists"
    TREC = "trec"
    BEIR = "beir"
    RANKLLM = "rankllm"
    MMEB = "mmeb"


_IN_PARQUET = (CandidateFormat.PAIRS, CandidateFormat.LISTS)

CandidateListing = tuple[CandidateFormat, tuple[ManifestFile, ...]]


def list_candidates(path: str, format_name: str, columns: Mapping[str, str], options: Options) -> CandidateListing:
    """The format of what `path` names, and its files; for a BEIR folder none. Raises as the module says.

    `columns` are the roles' own names. `auto` looks at names first, then into the first file.
    """
    fs, found = resolve(path, options)
    with opening("candidates.path", path, "list"):
        paths = _paths(fs, found, path, options)
        beir = fs.isdir(found) and all(_beside(fs, found, name) for name in BEIR_FILES)
    if format_name == "beir" or (format_name == "auto" and beir):
        return CandidateFormat.BEIR, ()
    if not paths:
        raise ManifestError(f"the candidates {without_userinfo(path)} have no files; check candidates.path")
    files = [ManifestFile(file_uri(fs, one), _file_format(one)) for one in paths]
    if format_name in _IN_PARQUET:
        files = [replace(file, format=Format.PARQUET) for file in files]
    if format_name != "auto":
        return CandidateFormat(format_name), tuple(files)
    formats = {_detect(file, columns, options): file.uri for file in _one_a_suffix(files)}
    if len(formats) > 1:
        kinds = "; ".join(f"{kind}: {uri}" for kind, uri in formats.items())
        raise ManifestError(f"the candidates {without_userinfo(path)} mix formats ({kinds}); set candidates.format")
    return next(iter(formats)), tuple(files)


def _paths(fs: fsspec.AbstractFileSystem, path: str, named: str, options: Options) -> list[str]:
    if fs.isfile(path):
        return [path]
    if fs.isdir(path):
        store = open_store(named, options)
        lists = [store.full(one) for one in newest_lists(store)]
        return lists or _without_copies(sorted(files_below(fs, path)))
    if WILD & set(path):
        return sorted(found for found, is_folder in matches(fs, path) if not is_folder)
    return []


def _without_copies(paths: Sequence[str]) -> list[str]:
    """`paths` without the TREC runs that lakevec writes beside its Parquet files."""
    with_parquet = {folder for folder, _, name in (one.rpartition("/") for one in paths) if name.endswith(".parquet")}
    return [one for one in paths if one.rpartition("/")[0] not in with_parquet or not one.endswith(f"/{RUN_COPY}")]


def _beside(fs: fsspec.AbstractFileSystem, folder: str, name: str) -> bool:
    return any(fs.exists(f"{folder}/{name}{packed}") for packed in ("", ".gz"))


def _file_format(path: str) -> Format:
    # TREC runs have no suffix of their own; anything that is not Parquet is read line by line.
    return Format.PARQUET if PurePosixPath(path.lower()).suffix in (".parquet", ".pq") else Format.JSONL


def _one_a_suffix(files: Sequence[ManifestFile]) -> list[ManifestFile]:
    # Looking into every part of a large run would cost a round trip each.
    first_of: dict[str, ManifestFile] = {}
    for file in files:
        first_of.setdefault(PurePosixPath(file.uri.lower()).suffix, file)
    return list(first_of.values())


def _detect(file: ManifestFile, columns: Mapping[str, str], options: Options) -> CandidateFormat:
    if file.format is Format.PARQUET:
        names = read_schema(file, options).names
        return CandidateFormat.LISTS if columns.get("doc_ids", "doc_ids") in names else CandidateFormat.PAIRS
    _, line = next(lines_of(file, options), (0, ""))
    if line.lstrip().startswith("{"):
        return _detect_json(file, line)
    if len(line.split()) >= 6:
        return CandidateFormat.TREC
    raise ManifestError(
        f"{file.uri} is no candidate list: expected Parquet, a TREC run (qid Q0 docid rank score tag), RankLLM or MMEB "
        f"JSON Lines; found {shown(line)}; set candidates.format if it is one"
    )


def _detect_json(file: ManifestFile, line: str) -> CandidateFormat:
    try:
        keys: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ManifestError(f"line 1 of {file.uri} is no JSON object: {shown(line)}") from None
    for key, found in (("prediction", CandidateFormat.MMEB), ("candidates", CandidateFormat.RANKLLM)):
        if key in keys:
            return found
    raise ManifestError(
        f"{file.uri} is no candidate list: expected JSON Lines with the key candidates (RankLLM) or prediction (MMEB); "
        f"found the keys {', '.join(map(repr, keys))}"
    )
