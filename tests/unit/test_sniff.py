"""Formats are told by content, and text that opens other addresses is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sniff import MediaFormat, kind_of, sniff
from pipeline.types import MediaKind
from tests.fixtures.media import clip, encode_image, encode_video, photo

IMAGES = {
    "JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff", "AVIF": "avif",
    "HEIF": "heic",
}  # fmt: skip

VIDEOS = {
    "mp4": "h264", "mov": "h264", "mkv": "h264", "webm": "vp9", "avi": "mpeg4", "mpegts": "mpeg2", "mpegps": "mpeg2",
    "flv": "flv1", "asf": "wmv2", "ogg": "vp8", "gif": "gif",
}  # fmt: skip


@pytest.mark.parametrize(("pillow_name", "name"), IMAGES.items())
def test_each_image_format_is_told(pillow_name: str, name: str) -> None:
    found = sniff(encode_image(photo(32, 24, 1), pillow_name))
    assert found == MediaFormat(name)
    assert found.is_image


@pytest.mark.parametrize(("container", "codec"), VIDEOS.items())
def test_each_container_is_told(container: str, codec: str) -> None:
    found = sniff(encode_video(clip(6, 64, 48, 1), container=container, codec=codec))
    assert found == MediaFormat(container)
    assert found.is_video


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", MediaFormat.AVIF),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", MediaFormat.HEIC),
        (b"\0\0\0\x18ftypavis\0\0\0\0avisavif", MediaFormat.AVIF),
        (b"\0\0\0\x14ftyp3gp5\0\0\0\0isom", MediaFormat.MP4),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", MediaFormat.MOV),
        (b"\0\0\x10\0moov" + bytes(64), MediaFormat.MOV),
        (b"II+\0\x08\0\0\0", MediaFormat.TIFF),
        ((b"\0\0\0\0G" + bytes(187)) * 3, MediaFormat.MPEGTS),
    ],
)
def test_rare_headers(head: bytes, expected: MediaFormat) -> None:
    assert sniff(head) is expected


@pytest.mark.parametrize(
    "text",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://169.254.169.254/x.ts\n",
        b"ffconcat version 1.0\nfile secret.mp4\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>',
        b"RIFF\0\0\0\0WAVEfmt ",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        b"\x1aE\xdf\xa3 no document type",
        b"BM25 ranks documents",
        b"GGGGGGGG",
        b"",
    ],
)
def test_everything_else_is_none(text: bytes) -> None:
    assert sniff(text) is None


def test_only_gif_is_both() -> None:
    assert [found for found in MediaFormat if found.is_image and found.is_video] == [MediaFormat.GIF]
    assert all(found.is_image or found.is_video for found in MediaFormat)


def test_a_file_s_kind_is_what_its_bytes_are() -> None:
    gif, movie = encode_image(photo(40, 30, 1), "GIF"), encode_video(clip(4, 64, 48, 1), fps=2)
    assert [kind_of(data) for data in (gif, movie, b"?")] == [MediaKind.IMAGE, MediaKind.VIDEO, MediaKind.IMAGE]


@given(st.binary(max_size=700), st.sampled_from([b"", b"BM", b"RIFF", b"\0\0\0\0ftyp", b"\x1aE\xdf\xa3", b"G"]))
def test_no_bytes_break_it(tail: bytes, head: bytes) -> None:
    assert sniff(head + tail) in {None, *MediaFormat}
