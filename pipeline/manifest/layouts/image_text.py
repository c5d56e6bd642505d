"""LAION, COYO, DataComp, and what img2dataset makes of them: a URL and a caption a row, perhaps the picture's bytes.

In: column names, tables. Out: roles, and the rows that img2dataset failed to download left out (`not_downloaded`).
The image is `jpg` (`webp`, `png`) where the bytes are there, else the URL. The id is the first of `_IDS` that there is,
else the URL.
"""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest.source import Converted, RowLayout

__all__ = ["layout", "looks_like", "missing"]

_URLS = ("url", "URL")
_TEXTS = ("caption", "TEXT", "text", "top_caption", "alt_text")
_IMAGES = ("jpg", "webp", "png")
_IDS = ("id", "uid", "SAMPLE_ID", "sample_id", "key")
"""Those of the data set before img2dataset's own `key`, which another download deals out anew."""

_SIGNS = frozenset(
    {
        "caption", "TEXT", "top_caption", "alt_text", "width", "height", "WIDTH", "HEIGHT", "original_width",
        "SAMPLE_ID", "similarity", "image_phash", "punsafe", "pwatermark",
    }
)  # fmt: skip
"""A `url` beside a `text` is a web page as a rule; one of these beside it makes it a picture."""


def looks_like(names: Collection[str]) -> bool:
    """Whether columns of these names are surely pictures with captions."""
    if {"image", "video", "frames"}.intersection(names):
        return False
    downloaded = {"key", "status"}.issubset(names) and _first(_IMAGES, names) is not None
    return downloaded or (not missing(names) and _first(_TEXTS, names) is not None and not _SIGNS.isdisjoint(names))


def missing(names: Collection[str]) -> tuple[str, ...]:
    """The columns without which there is no picture."""
    return () if _first((*_IMAGES, *_URLS), names) else ("url (or URL, jpg, webp, png)",)


def layout(names: Collection[str]) -> RowLayout:
    """The layout of files that have columns of these names."""
    chosen = {
        "id": _first((*_IDS, *_URLS), names),
        "text": _first(_TEXTS, names),
        "image": _first((*_IMAGES, *_URLS), names),
    }
    roles = {role: name for role, name in chosen.items() if name is not None}
    if "status" not in names:
        return RowLayout(roles)
    return RowLayout(roles, needs=("status",), start=lambda: _downloaded)


def _downloaded(file: str, first_row: int, table: pa.Table) -> Converted:
    del file, first_row
    if "status" not in table.column_names:
        return Converted(table)
    failed = pc.not_equal(table.column("status").cast(pa.string()), "success")
    return Converted(table, pc.if_else(failed, "not_downloaded", pa.scalar(None, pa.string())))


def _first(wanted: tuple[str, ...], names: Collection[str]) -> str | None:
    return next((name for name in wanted if name in names), None)
