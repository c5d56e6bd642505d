"""What a file is, by its first bytes alone.

In: the bytes of a file. Out: a `MediaFormat`, or None. File names and MIME types are never asked: a lake's
extensions lie. Refused by being None: everything without a magic number here, above all the text formats that make a
demuxer open other addresses (HLS, DASH, SDP, concat scripts).
"""

from __future__ import annotations

from enum import StrEnum

from pipeline.types import MediaKind

__all__ = ["MediaFormat", "kind_of", "sniff"]

TS_PACKET_BYTES = 188
TS_SYNC = 0x47
TS_PACKETS_SEEN = 3  # one 0x47 is a letter "G"; three at the packet distance are no accident
M2TS_STAMP_BYTES = 4  # Blu-ray's variant puts an arrival stamp before each packet
BRANDS_END_BYTES = 512  # an `ftyp` box lists far fewer than 120 brands; more is damage
EBML_HEADER_BYTES = 128  # DocType lies within the header, which is about 40 bytes


class MediaFormat(StrEnum):
    """A container or picture format that lakevec can open."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    BMP = "bmp"
    TIFF = "tiff"
    AVIF = "avif"
    HEIC = "heic"
    MP4 = "mp4"
    MOV = "mov"
    MKV = "mkv"
    WEBM = "webm"
    AVI = "avi"
    MPEGTS = "mpegts"
    MPEGPS = "mpegps"
    FLV = "flv"
    ASF = "asf"
    OGG = "ogg"

    @property
    def is_image(self) -> bool:
        """Whether an `image` cell may hold it: a GIF is both, and then its first frame counts."""
        return self in _IMAGES

    @property
    def is_video(self) -> bool:
        """Whether a `video` cell may hold it: animated GIF is, animated WebP is not (no decoder for it)."""
        return self is MediaFormat.GIF or not self.is_image


_IMAGES = frozenset(
    {
        MediaFormat.JPEG, MediaFormat.PNG, MediaFormat.WEBP, MediaFormat.GIF, MediaFormat.BMP, MediaFormat.TIFF,
        MediaFormat.AVIF, MediaFormat.HEIC,
    }
)  # fmt: skip

_PREFIXES: tuple[tuple[bytes, MediaFormat], ...] = (
    (b"\xff\xd8\xff", MediaFormat.JPEG),
    (b"\x89PNG\r\n\x1a\n", MediaFormat.PNG),
    (b"GIF87a", MediaFormat.GIF),
    (b"GIF89a", MediaFormat.GIF),
    (b"II*\0", MediaFormat.TIFF),
    (b"MM\0*", MediaFormat.TIFF),
    (b"II+\0", MediaFormat.TIFF),
    (b"MM\0+", MediaFormat.TIFF),
    (b"FLV\x01", MediaFormat.FLV),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", MediaFormat.ASF),
    (b"OggS\0", MediaFormat.OGG),
    (b"\x00\x00\x01\xba", MediaFormat.MPEGPS),
)

_RIFF = {
    b"WEBP": MediaFormat.WEBP,
    b"AVI ": MediaFormat.AVI,
}

_BMP_HEADER_BYTES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Lengths of every DIB header ever defined; "BM" alone opens many a text."""

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})

_BARE_QUICKTIME = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
"""Boxes that a QuickTime file older than `ftyp` may open with."""


def sniff(data: bytes) -> MediaFormat | None:
    """The format whose magic number `data` starts with, or None when there is none that lakevec opens."""
    for prefix, found in _PREFIXES:
        if data.startswith(prefix):
            return found
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[:2] == b"BM":
        return _bmp(data)
    if data[:4] == b"\x1aE\xdf\xa3":
        return _ebml(data)
    if data[4:8] == b"ftyp":
        return _iso_brand(data)
    if data[4:8] in _BARE_QUICKTIME:
        return MediaFormat.MOV
    return MediaFormat.MPEGTS if _is_transport_stream(data) else None


def kind_of(data: bytes) -> MediaKind:
    """Image or video; a GIF is an image, and so is what is neither (decoding will refuse it)."""
    found = sniff(data)
    return MediaKind.IMAGE if found is None or found.is_image else MediaKind.VIDEO


def _bmp(data: bytes) -> MediaFormat | None:
    known = int.from_bytes(data[14:18], "little") in _BMP_HEADER_BYTES
    return MediaFormat.BMP if known else None


def _ebml(data: bytes) -> MediaFormat | None:
    header = data[:EBML_HEADER_BYTES]
    if b"webm" in header:
        return MediaFormat.WEBM
    return MediaFormat.MKV if b"matroska" in header else None


def _iso_brand(data: bytes) -> MediaFormat:
    """Tell stills from movies by all brands, since `mif1` and `msf1` head AVIF and HEIC files alike."""
    end = min(int.from_bytes(data[:4], "big"), BRANDS_END_BYTES, len(data))
    major = data[8:12]
    compatible = {data[at : at + 4] for at in range(16, end - 3, 4)}
    if major in _AVIF_BRANDS:
        return MediaFormat.AVIF
    if major in _HEIC_BRANDS:
        return MediaFormat.HEIC
    if major in (b"mif1", b"msf1"):
        return MediaFormat.AVIF if compatible & _AVIF_BRANDS else MediaFormat.HEIC
    return MediaFormat.MOV if major == b"qt  " else MediaFormat.MP4


def _is_transport_stream(data: bytes) -> bool:
    return any(
        len(data) > start + (TS_PACKETS_SEEN - 1) * stride
        and all(data[start + i * stride] == TS_SYNC for i in range(TS_PACKETS_SEEN))
        for start, stride in ((0, TS_PACKET_BYTES), (M2TS_STAMP_BYTES, TS_PACKET_BYTES + M2TS_STAMP_BYTES))
    )
