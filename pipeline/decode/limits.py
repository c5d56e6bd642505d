"""What a file says of itself that would cost too much to believe: judged from its bytes, before any decoder has them.

In: the bytes of one file and the limits. Out: nothing. Refused with RejectError: JPEGs of hundreds of scans or a
thousand segments, or with too much metadata, and TIFFs of millions of numbers in a tag (IMAGE_TOO_LARGE), MP4s of a
million boxes, or that list more samples than packets are allowed (VIDEO_TOO_LONG). Whatever cannot be followed here is
left to the decoder, which has limits of its own.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import DecodeConfig
from pipeline.errors import RejectCode, RejectError

__all__ = ["DEFAULT_LIMITS", "check_jpeg", "check_mp4", "check_tiff"]

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

MAX_MP4_BOXES = 1_000_000
"""An hour and a half in fragments of one frame each, at 30 a second and six boxes a fragment. Looking at so many takes
about a second."""

MAX_MP4_DEPTH = 10
"""Sample tables lie five deep (ISO/IEC 14496-12, table 1), and FFmpeg looks no deeper than this."""

_MP4_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"})


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


def check_mp4(data: bytes, limits: DecodeConfig) -> None:
    """Refuse an MP4 that lists more samples of a track than `max_packets` without a table of them.

    Where all samples have one size, their number takes four bytes whatever it is, and FFmpeg makes an entry of each.
    Sound in PCM, each of whose samples counts as one, is read in chunks.
    """
    fragments, tracks = 0, [_Track()]
    for number, (kind, body) in enumerate(_boxes(memoryview(data))):
        if number >= MAX_MP4_BOXES:
            raise RejectError(RejectCode.VIDEO_TOO_LONG, f"the file has more than {MAX_MP4_BOXES} boxes")
        if kind == b"trak":
            tracks.append(_Track())
        elif kind == b"stsz" and len(body) >= 12 and body[4:8] != bytes(4):
            tracks[-1].of_one_size = max(tracks[-1].of_one_size, int.from_bytes(body[8:12], "big"))
        elif kind == b"stts" and len(body) >= 16:
            # How many runs, and of the first one how many samples and how long each.
            tracks[-1].steps = (int.from_bytes(body[4:8], "big"), int.from_bytes(body[12:16], "big"))
        elif kind == b"trun" and len(body) >= 8:
            fragments += int.from_bytes(body[4:8], "big")
    samples = max(fragments, *(track.listed for track in tracks))
    if samples > limits.max_packets:
        raise RejectError(RejectCode.VIDEO_TOO_LONG, f"the file lists {samples} samples of a track")


@dataclass(slots=True)
class _Track:
    """What a track's boxes say. `steps`: how many runs of equally long samples, and how long the first run's are."""

    of_one_size: int = 0
    steps: tuple[int, int] = (0, 0)

    @property
    def listed(self) -> int:
        """How many samples of one size it lists; 0 where it is PCM, or has a table, which takes room in the file."""
        return 0 if self.steps == (1, 1) else self.of_one_size


def _boxes(data: memoryview, depth: int = 0) -> Iterator[tuple[bytes, memoryview]]:
    """Every box of `data` that may hold a sample table, with those inside it; a damaged size ends its list."""
    at = 0
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
        header = 8
        if size == 1:
            size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = len(data) - at
        if size < header:
            return
        body = data[at + header : at + size]
        yield kind, body
        if kind in _MP4_PARENTS and depth < MAX_MP4_DEPTH:
            yield from _boxes(body, depth + 1)
        at += size
