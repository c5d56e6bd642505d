"""Which layout a manifest has, and where its rows come from.

In: the config. Out: a `Found`: a source of rows, and the folder that relative URIs mean. Under `auto` a manifest that
can be read as plain is plain, pictures with URLs beside a caption excepted. Refused with ManifestError: a forced layout
whose columns or files are not there, or that contradicts them, and what `listing` refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import fsspec
import pyarrow as pa

from pipeline.config import ManifestConfig
from pipeline.errors import ManifestError
from pipeline.manifest.columns import CONTENT_ROLES
from pipeline.manifest.layouts import binary_file, hugging_face, image_text
from pipeline.manifest.layouts.folding import ENCODED_INVENTORY, INVENTORY, JOURNAL
from pipeline.manifest.layouts.object_sources import holds_media, prefix_source, table_source
from pipeline.manifest.layouts.s3_inventory import find_delivery
from pipeline.manifest.layouts.s3_tables import inventory_missing, journal_missing
from pipeline.manifest.listing import ManifestFile, asking, file_uri, list_manifest
from pipeline.manifest.readers import Options, read_schema
from pipeline.manifest.search import WILD, fixed_folder
from pipeline.manifest.source import FileSource, RowLayout, Source
from pipeline.storage import resolve

__all__ = ["Found", "find_source"]

_THREADS = 16
"""Footers are small and far away: opening thousands of files is waiting, not work."""

Schemas = Mapping[str, pa.Schema]


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest's rows, and its own folder (local absolute path or URI, no slash at the end)."""

    folder: str
    source: Source


def find_source(config: ManifestConfig, options: Options, output: str | None) -> Found:
    """Find the manifest's files and recognise their layout, without reading rows (JSON Lines excepted).

    `output` is `output.path`, whose files are not the manifest's. Raises ManifestError.
    """
    if config.layout == "prefix":
        return Found(*prefix_source(config, options, output))
    if named := _named_by_files(config, options):
        return named
    listing = list_manifest(config, options, output, may_be_empty=config.layout == "auto")
    if not listing.files:
        if holds_media(config, options, output):
            return Found(*prefix_source(config, options, output))
        listing = list_manifest(config, options, output)
    found = _schemas(listing.files, options)
    # A JSON Lines file without a line has no columns, and nothing to say about them.
    schemas = {uri: schema for uri, schema in found.items() if schema.names}
    if not schemas:
        raise ManifestError(f"the manifest {config.path} has no rows in its {len(listing.files)} file(s)")
    files = [file for file in listing.files if file.uri in schemas]
    layout = _layout_of(config, schemas)
    if layout in _FOLDS:
        source: Source = table_source(config, options, files, schemas, _FOLDS[layout])
    else:
        source = FileSource(files, schemas, _row_layout(config, layout, schemas, listing.folder), options)
    return Found(listing.folder, source)


def _named_by_files(config: ManifestConfig, options: Options) -> Found | None:
    fs, path = resolve(config.path, options)
    if config.layout in ("auto", "s3_inventory"):
        with asking(config):
            delivery = find_delivery(fs, path)
        if delivery:
            schemas = _schemas(delivery.files, options)
            _check(config, "s3_inventory", schemas)
            fold = ENCODED_INVENTORY if delivery.encoded else INVENTORY
            return Found(file_uri(fs, _folder(fs, path)), table_source(config, options, delivery.files, schemas, fold))
    if config.layout in ("auto", "hugging_face"):
        with asking(config):
            files = hugging_face.saved_files(fs, path) if fs.isdir(path) else ()
        if files:
            folder = file_uri(fs, path)
            schemas = _schemas(files, options)
            return Found(
                folder, FileSource(files, schemas, _row_layout(config, "hugging_face", schemas, folder), options)
            )
    return None


def _folder(fs: fsspec.AbstractFileSystem, path: str) -> str:
    if WILD & set(path) and not fs.exists(path):
        return fixed_folder(path)
    return path if fs.isdir(path) else path.rpartition("/")[0]


def _schemas(files: Sequence[ManifestFile], options: Options) -> dict[str, pa.Schema]:
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(partial(read_schema, options=options), files)
        return {file.uri: schema for file, schema in zip(files, found, strict=True)}


_FOLDS = {"s3_inventory": INVENTORY, "s3_journal": JOURNAL}
_Missing = Callable[[Collection[str]], tuple[str, ...]]
_MISSING: Mapping[str, _Missing] = {
    "s3_journal": journal_missing,
    "s3_inventory": inventory_missing,
    "binary_file": binary_file.missing,
    "img2dataset": image_text.missing,
}
"""What the files of each layout lack, the most particular layout first."""


def _layout_of(config: ManifestConfig, schemas: Schemas) -> str:
    if config.layout != "auto":
        _check(config, config.layout, schemas)
        return config.layout
    chosen = set(config.columns).intersection(CONTENT_ROLES)
    if not chosen and all(image_text.looks_like(schema.names) for schema in schemas.values()):
        return "img2dataset"
    if _is_plain(config, schemas):
        return "plain"
    for layout in ("s3_journal", "s3_inventory", "binary_file"):
        if not any(_MISSING[layout](schema.names) for schema in schemas.values()):
            return layout
    return "hugging_face" if all(map(hugging_face.looks_like, schemas.values())) else "plain"


def _is_plain(config: ManifestConfig, schemas: Schemas) -> bool:
    id_column = config.columns.get("id", "id")
    contents = {config.columns.get(role, role) for role in CONTENT_ROLES}
    everywhere = {name for schema in schemas.values() for name in schema.names}
    return all(id_column in schema.names for schema in schemas.values()) and bool(contents & everywhere)


def _check(config: ManifestConfig, layout: str, schemas: Schemas) -> None:
    for uri, schema in schemas.items():
        lacking = _MISSING[layout](schema.names) if layout in _MISSING else ()
        if lacking:
            raise ManifestError(
                f"{config.path} is no manifest of the layout {layout}: {uri} lacks {', '.join(lacking)}; it has "
                f"{', '.join(schema.names)}"
            )
        if layout == "s3_inventory" and not journal_missing(schema.names):
            raise ManifestError(
                f"{uri} has record_type and sequence_number: it is a metadata journal and no inventory; set "
                "manifest.layout to s3_journal"
            )


def _row_layout(config: ManifestConfig, layout: str, schemas: Schemas, folder: str) -> RowLayout:
    names = {name for schema in schemas.values() for name in schema.names}
    if layout == "img2dataset":
        return image_text.layout(names)
    if layout == "binary_file":
        return binary_file.layout(names)
    if layout == "hugging_face":
        return hugging_face.layout(schemas, folder, config.columns.get("id", "id"))
    return RowLayout()
