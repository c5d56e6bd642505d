"""What a picture claims that would cost too much to believe: judged from its bytes, before any decoder has them.

In: the bytes of one picture and the limits. Out: nothing. Refused with RejectError (IMAGE_TOO_LARGE): JPEGs of
hundreds of scans or a thousand segments, or with too much metadata, and TIFFs of millions of numbers in a tag. Whatever
cannot be followed here is left to the decoder, which has limits of its own. `decode.mp4` is the same for videos.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator

from pipeline.config import DecodeConfig
from pipeline.errors import RejectCode, RejectError

__all__ = ["DEFAULT_LIMITS", "check_jpeg", "check_tiff"]

DEFAULT_LIMITS = DecodeConfig()

MAX_JPEG_SCANS = 500
"""Each scan of a progressive JPEG passes over the whole picture. Encoders write about ten; libjpeg-turbo's own fuzzers
stop here."""

MAX_JPEG_SEGMENTS = 1000
"""Before the first scan. Encoders write some tens; with each part of its EXIF Pillow copies all those before."""

_JPEG_JOINED = {b"Exif\0\0": "EXIF", b"ICC_PROFILE\0": "profile"}
"""Beginnings of segments that are put together; each other one stays below 64 KiB by itself."""

_SOS, _EOI = 0xDA, 0xD9  # of ISO/IEC 10918-1, table B.1
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # without a length: TEM, RST0–7, SOI
_UNSIZED_IN_HEAD = frozenset({0xC8, 0xD9, *range(0xF0, 0xFE), *_BARE_MARKERS})
"""What Pillow takes for a marker without a length while it looks for the first scan; EOI does not stop it."""

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_TIFF_VALUE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Of the types that become Python numbers; the others (bytes, ASCII, undefined) stay the bytes that they are."""

_NUMBER_BYTES = 32
"""What a number of a tag takes once it is one of Python's."""


def check_jpeg(data: bytes, limits: DecodeConfig) -> None:
    """Refuse a JPEG of more scans than `MAX_JPEG_SCANS` in its first picture, or too much before the first of them.

    That is `MAX_JPEG_SEGMENTS`, or `max_metadata_bytes` of EXIF, of the profile, or of bytes that belong to nothing.
    """
    held: Counter[str] = Counter()
    for number, (what, size_bytes) in enumerate(_jpeg_head(data)):
        if number >= MAX_JPEG_SEGMENTS:
            raise RejectError(RejectCode.IMAGE_TOO_LARGE, f"more than {MAX_JPEG_SEGMENTS} segments before the picture")
        held[what] += size_bytes
        if what and held[what] > limits.max_metadata_bytes:
            detail = f"{what} of more than decode.max_metadata_bytes: {limits.max_metadata_bytes}"
            raise RejectError(RejectCode.IMAGE_TOO_LARGE, detail)
    # The two bytes may also be in metadata or behind the picture, so that their number only bounds that of scans.
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS and _jpeg_scans(data) > MAX_JPEG_SCANS:
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, f"more than {MAX_JPEG_SCANS} scans")


def _jpeg_head(data: bytes) -> Iterator[tuple[str, int]]:
    """What stands before the first scan, and its length: parts of what is put together, "" for other segments."""
    at = 2
    while (found := _NEXT_MARKER.search(data, at)) is not None:
        if found.start() > at:
            yield "filling", found.start() - at
        marker, at = data[found.start() + 1], found.end()
        if marker == _SOS:
            return
        if marker in _UNSIZED_IN_HEAD:
            continue
        size_bytes = max(2, int.from_bytes(data[at : at + 2], "big"))
        what = next((name for start, name in _JPEG_JOINED.items() if data.startswith(start, at + 2)), "")
        yield what, size_bytes
        at += size_bytes
    yield "filling", max(0, len(data) - at)


def _jpeg_scans(data: bytes) -> int:
    scans, at = 0, 2
    while scans <= MAX_JPEG_SCANS:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            return scans
        marker, at = data[found.start() + 1], found.end()
        if marker == _EOI:
            return scans
        scans += marker == _SOS
        if marker not in _BARE_MARKERS and marker != _SOS:
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def check_tiff(data: bytes, limits: DecodeConfig) -> None:
    """Refuse a TIFF whose first directory has a tag of more numbers than `max_metadata_bytes` hold."""
    for tag, type_, count in _tiff_entries(data):
        if type_ in _TIFF_VALUE_BYTES and count * _NUMBER_BYTES > max(limits.max_metadata_bytes, len(data)):
            raise RejectError(RejectCode.IMAGE_TOO_LARGE, f"TIFF tag {tag} has {count} values")


def _tiff_entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    order = "<" if data[:2] == b"II" else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(order + ("HHQ8x" if is_big else "HHI4x"))
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
        first = start + (8 if is_big else 2)
        fitting = min(entries, (len(data) - first) // entry.size)
        yield from entry.iter_unpack(memoryview(data)[first : first + max(0, fitting) * entry.size])
    except (struct.error, OverflowError):
        return
