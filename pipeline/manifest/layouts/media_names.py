"""What a key's extension says about an object: a hint that decides only what is listed and estimated.

In: keys. Out: which of them name no media. A key without an extension may be anything, and its bytes will tell: they
alone say what an object is.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["EXTENSION", "HIDDEN", "KNOWN", "VIDEO", "not_media"]

_IMAGES = (
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "heic", "heif",
)  # fmt: skip
_VIDEOS = (
    "mp4", "m4v", "mov", "qt", "mkv", "webm", "avi", "ts", "mts", "m2ts", "mpg", "mpeg", "vob", "flv", "wmv", "asf",
    "ogv", "3gp", "3g2",
)  # fmt: skip

KNOWN = rf"(?i)\.({'|'.join(_IMAGES + _VIDEOS)})$"
VIDEO = rf"(?i)\.({'|'.join(_VIDEOS)})$"
EXTENSION = r"\.[A-Za-z0-9]{1,8}$"
HIDDEN = r"(^|/)[._][^/]*$"
"""Patterns of RE2, for Arrow and DuckDB alike. Hidden: `.DS_Store`, `_SUCCESS`; a `_photo.jpg` is media still."""


def not_media(keys: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each key ends in an extension of other files, or is hidden and has none. Null for null."""
    other = pc.or_(pc.match_substring_regex(keys, EXTENSION), pc.match_substring_regex(keys, HIDDEN))
    return pc.and_not(other, pc.match_substring_regex(keys, KNOWN))
