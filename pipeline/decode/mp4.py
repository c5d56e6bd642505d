"""What an MP4 or QuickTime file claims that would cost too much to believe, judged before FFmpeg has it.

In: the bytes of one file and the limits. Out: nothing. Refused with RejectError (VIDEO_TOO_LONG): a million boxes; more
samples than packets are allowed that no table has to list; a compressed header that grows beyond measure.

FFmpeg makes an entry of each sample that a track has. Where all samples have one size, or a fragment's run says nothing
of any, their number takes four bytes whatever it is; a table of them takes room in the file, and is left alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from pipeline.config import DecodeConfig
from pipeline.errors import RejectCode, RejectError

__all__ = ["MAX_BOXES", "MAX_HEADER_BYTES", "check_mp4"]

MAX_BOXES = 1_000_000
"""More than an hour in fragments of one frame each, at 30 a second and seven boxes a fragment. Looking at so many takes
about a second."""

MAX_DEPTH = 10
"""Sample tables lie five deep (ISO/IEC 14496-12, table 1), and FFmpeg looks no deeper than this."""

MAX_HEADER_BYTES = 16 << 20
"""Of a compressed header (QuickTime's `cmov`), unpacked: the tables of four million samples."""

_LEAVES = frozenset(
    {
        b"mdat", b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stz2", b"stco", b"co64", b"sdtp", b"sbgp", b"sgpd",
        b"trun", b"tfra", b"sidx", b"saiz", b"saio", b"senc", b"elst", b"hdlr", b"data", b"ftyp", b"styp", b"mvhd",
        b"tkhd", b"mdhd", b"vmhd", b"smhd", b"mehd", b"trex", b"mfhd", b"tfhd", b"tfdt",
    }
)  # fmt: skip
"""Boxes without boxes. FFmpeg looks for tables in more places than any standard has them, so all others are entered;
what is no box in them ends their list, or passes for a few that nobody knows."""

_MEDIA_HANDLERS = frozenset({b"vide", b"soun", b"subp", b"clcp", b"m1a "})
"""What FFmpeg takes a track's kind from; others are of its data's place."""

_Box = tuple[bytes, memoryview]
"""A box's four letters, and what is in it."""


class _Walk:
    """All boxes of a file, and how many there were."""

    def __init__(self) -> None:
        self._boxes = 0

    def inside(self, data: memoryview, depth: int = 0) -> Iterator[_Box]:
        """Every box of `data`, and every one inside those but for tracks, which are the caller's to enter."""
        for kind, body in self._listed(data):
            yield kind, body
            if kind in _LEAVES or kind == b"trak" or depth >= MAX_DEPTH:
                continue
            for part in _parts(kind, body):
                yield from self.inside(part, depth + 1)

    def _listed(self, data: memoryview) -> Iterator[_Box]:
        """The boxes of one list, which a damaged size ends; the last one may claim more than there is."""
        at = 0
        while at + 8 <= len(data):
            self._boxes += 1
            if self._boxes > MAX_BOXES:
                raise RejectError(RejectCode.VIDEO_TOO_LONG, f"the file has more than {MAX_BOXES} boxes")
            size, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
            header = 8
            if size == 1:
                size, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
            elif size == 0:
                size = len(data) - at
            if size < header:
                return
            yield kind, data[at + header : at + size]
            at += size


def check_mp4(data: bytes, limits: DecodeConfig) -> None:
    """Refuse an MP4 that lists more samples than `max_packets`, in all its tracks, without a table of them.

    Sound in PCM, each of whose samples counts as one, is read in chunks and may have any number.
    """
    walk = _Walk()
    samples = 0
    for kind, body in walk.inside(memoryview(data)):
        samples += _track_samples(walk, body) if kind == b"trak" else _samples(kind, body)
        if samples > limits.max_packets:
            raise RejectError(RejectCode.VIDEO_TOO_LONG, f"the file lists {samples} samples without a table of them")


def _track_samples(walk: _Walk, trak: memoryview, depth: int = 1) -> int:
    """How many samples without a table the boxes of a track list; none if it is sound that is read in chunks."""
    samples, handlers, tables, steps, is_alone = 0, set(), 0, [], True
    for kind, body in walk.inside(trak, depth):
        if kind == b"trak":
            is_alone = False
            samples += _track_samples(walk, body, depth + 1) if depth < MAX_DEPTH else 0
        samples += _samples(kind, body)
        tables += kind == b"stsz"
        if kind == b"hdlr":
            handlers.add(bytes(body[8:12]))
        elif kind == b"stts":
            # How many runs, and of the first one how long each sample is.
            steps.append((int.from_bytes(body[4:8], "big"), int.from_bytes(body[12:16], "big")))
    is_in_chunks = handlers & _MEDIA_HANDLERS == {b"soun"} and steps == [(1, 1)] and tables == 1 and is_alone
    return 0 if is_in_chunks else samples


def _samples(kind: bytes, body: memoryview) -> int:
    if kind == b"stsz" and len(body) >= 12 and body[4:8] != bytes(4):
        return int.from_bytes(body[8:12], "big")
    if kind == b"trun" and len(body) >= 8:
        return int.from_bytes(body[4:8], "big")
    return 0


def _parts(kind: bytes, body: memoryview) -> Iterator[memoryview]:
    """Where in a box there may be a list of boxes."""
    if kind == b"cmvd":
        yield memoryview(_unpacked(body[4:]))
    elif kind == b"stsd":
        # Descriptions begin with fields whose length their kind decides, and boxes may follow in each.
        letters = bytes(body)
        at = letters.find(b"stsz")
        while at >= 4:
            yield body[at - 4 :]
            at = letters.find(b"stsz", at + 1)
    elif kind == b"meta":
        # As FFmpeg has it: from the first handler on, wherever it lies.
        at = bytes(body).find(b"hdlr")
        yield body[at - 4 :] if at >= 4 else body
    else:
        yield body


def _unpacked(packed: memoryview) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        header = unpacker.decompress(packed, MAX_HEADER_BYTES + 1)
    except zlib.error:
        return b""  # nor does FFmpeg read it
    if len(header) > MAX_HEADER_BYTES:
        detail = f"a compressed header that unpacks to more than {MAX_HEADER_BYTES} bytes"
        raise RejectError(RejectCode.VIDEO_TOO_LONG, detail)
    return header
