"""Hugging Face datasets: folders of `save_to_disk`, and the hub's Parquet where it has no id column.

In: a folder, or schemas that carry the library's metadata. Out: the Arrow files in the order of `state.json`, and
roles. Without an id column the id is `<split>/<row>`, the row counted over the split's files from 0: cutting the files
otherwise keeps ids, and so does appending. The columns that the dataset's features call Image and Video are image and
video where there is one of each. Refused with ManifestError: a dataset whose rows are picked by an indices file.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ManifestError
from pipeline.manifest.listing import Format, ManifestFile, file_uri
from pipeline.manifest.source import Convert, Converted, RowLayout

__all__ = ["layout", "looks_like", "saved_files"]

_METADATA = b"huggingface"
_SHARD = re.compile(r"^(.*?)-?\d{5}-of-\d{5}(?:-\w+)?$")
_MEDIA = {"Image": "image", "Video": "video"}


def saved_files(fs: fsspec.AbstractFileSystem, folder: str) -> tuple[ManifestFile, ...]:
    """The files of what `save_to_disk` wrote to `folder`, a dataset or one of splits; none if it is neither."""
    if fs.exists(f"{folder}/dataset_dict.json"):
        splits = _json(fs, f"{folder}/dataset_dict.json").get("splits", [])
        return tuple(file for split in splits for file in _split_files(fs, f"{folder}/{_own(split)}"))
    return _split_files(fs, folder) if fs.exists(f"{folder}/state.json") else ()


def looks_like(schema: pa.Schema) -> bool:
    """Whether the library wrote the file of this schema."""
    return _METADATA in (schema.metadata or {})


def layout(schemas: Mapping[str, pa.Schema], folder: str, id_column: str) -> RowLayout:
    """The layout of files with these schemas (by URI) below `folder`; `id_column` is theirs if all of them have it."""
    names = {name for schema in schemas.values() for name in schema.names}
    roles = _media_roles(next(iter(schemas.values())), names)
    if "text" not in names and "caption" in names:
        roles["text"] = "caption"
    if all(id_column in schema.names for schema in schemas.values()):
        return RowLayout(roles)
    return RowLayout(roles | {"id": "id"}, (pa.field("id", pa.string()),), (), partial(_numbering, folder))


def _media_roles(schema: pa.Schema, names: set[str]) -> dict[str, str]:
    try:
        info = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))
    except ValueError:
        return {}
    features: dict[str, Any] = (info.get("info") or {}).get("features") or {}
    roles: dict[str, str] = {}
    for kind, role in _MEDIA.items():
        found = [name for name, one in features.items() if isinstance(one, dict) and one.get("_type") == kind]
        if role not in names and len(found) == 1:
            roles[role] = found[0]
    return roles


def _numbering(folder: str) -> Convert:
    rows_of: Counter[str] = Counter()
    bases: dict[str, int] = {}

    def numbered(file: str, first_row: int, table: pa.Table) -> Converted:
        split = _split_of(folder, file)
        base = bases.setdefault(file, rows_of[split])
        rows_of[split] = base + first_row + table.num_rows
        rows = pa.array(np.arange(base + first_row, rows_of[split])).cast(pa.string())
        ids = pc.binary_join_element_wise(f"{split}/", rows, "") if split else rows
        return Converted(table.append_column("id", pa.chunked_array([ids])))

    return numbered


def _split_of(folder: str, file: str) -> str:
    path = PurePosixPath(file.removeprefix(folder).lstrip("/"))
    shard = _SHARD.match(path.stem)
    name = shard[1] if shard else path.stem
    # `save_to_disk` calls every file data-…: there the folder is the split.
    inner = "" if path.suffix == ".arrow" and name == "data" else name
    parent = "" if path.parent == PurePosixPath() else str(path.parent)
    return "/".join(part for part in (parent, inner) if part)


def _split_files(fs: fsspec.AbstractFileSystem, folder: str) -> tuple[ManifestFile, ...]:
    state = _json(fs, f"{folder}/state.json")
    if state.get("_indices_data_files"):
        raise ManifestError(f"{folder} picks its rows by an indices file; call flatten_indices() and save it again")
    names: Sequence[Mapping[str, Any]] = state.get("_data_files") or []
    return tuple(ManifestFile(file_uri(fs, f"{folder}/{_own(one.get('filename'))}"), Format.ARROW) for one in names)


def _json(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    try:
        found = json.loads(fs.cat_file(path))
    except ValueError as error:
        raise ManifestError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ManifestError(f"{path} holds no JSON object, as save_to_disk writes it")
    return found


def _own(name: object) -> str:
    # These files name others: only their neighbours are meant.
    if not isinstance(name, str) or "/" in name or name in ("", ".", ".."):
        raise ManifestError(f"a Hugging Face dataset names the file {name!r}; expected a plain name beside it")
    return name
