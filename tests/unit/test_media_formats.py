"""Every container with every codec that it commonly holds, and damage to all of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode.image import decode_image
from pipeline.decode.video import probe_video, read_frames
from pipeline.errors import RejectCode, RejectError
from tests.fixtures.media import clip, encode_image, encode_video, mutate, photo

HELD = {
    "mp4": ("h264", "hevc", "vp9", "av1", "mpeg4", "mjpeg"),
    "mov": ("h264", "hevc", "mpeg4", "prores", "mjpeg"),
    "mkv": ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2", "ffv1", "rgb"),
    "webm": ("vp8", "vp9", "av1"),
    "avi": ("h264", "mpeg4", "mjpeg", "ffv1"),
    "mpegts": ("h264", "hevc", "mpeg2", "mpeg4"),
    "mpegps": ("mpeg2",),
    "flv": ("flv1", "h264"),
    "asf": ("wmv2",),
    "ogg": ("vp8",),
    "gif": ("gif",),
}
REORDERING = {"h264", "hevc", "mpeg4", "mpeg2"}
PAIRS = [(container, codec) for container, codecs in HELD.items() for codec in codecs]

VARIANTS: dict[str, dict[str, object]] = {
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "10-bit hevc": {"codec": "hevc", "pix_fmt": "yuv420p10le"},
    "interlaced": {"options": {"x264-params": "tff=1"}},
    "grey": {"codec": "ffv1", "container": "mkv", "pix_fmt": "gray"},
    "alpha": {"codec": "vp9", "container": "webm", "pix_fmt": "yuva420p"},
    "sound": {"audio": True},
    "4:2:2": {"pix_fmt": "yuv422p"},
}


def _numbers(frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[int]:
    return [round(float(frame[2:14, 2:14].mean()) / 8) for frame in frames]


@pytest.mark.parametrize(("container", "codec"), PAIRS)
def test_the_right_frames_at_the_right_times(container: str, codec: str) -> None:
    for bframes in (0, 2) if codec in REORDERING and container != "flv" else (0,):
        data = encode_video(clip(25, 160, 96, 3), container=container, codec=codec, bframes=bframes)
        probe = probe_video(data)
        assert (probe.height_px, probe.width_px, probe.avg_fps) == (96, 160, 10.0)
        assert np.allclose(probe.times_s, np.arange(25) / 10, atol=0.0006)  # Matroska and FLV round to 1 ms
        frames = read_frames(data, probe, np.arange(25), 96, 160)
        assert _numbers(frames) == list(range(25))
        some = np.array([0, 7, 7, 13, 20, 24])
        assert np.array_equal(read_frames(data, probe, some, 96, 160), frames[some])


@pytest.mark.parametrize("name", VARIANTS)
def test_rarer_pixel_formats(name: str) -> None:
    data = encode_video(clip(12, 160, 96, 3), **VARIANTS[name])  # type: ignore[arg-type]
    frames = read_frames(data, probe_video(data), np.arange(12), 96, 160)
    corners = np.array([float(frame[2:14, 2:14].mean()) for frame in frames])
    assert np.abs(corners - 8 * np.arange(12)).max() < 12  # full-range grey read as limited moves a level by up to 10


def test_odd_sizes() -> None:
    data = encode_video(clip(5, 161, 97, 3), container="mkv", codec="ffv1")
    probe = probe_video(data)
    assert (probe.height_px, probe.width_px) == (97, 161)
    assert read_frames(data, probe, np.array([0, 4]), 97, 161).shape == (2, 97, 161, 3)


def test_one_frame_is_one_time() -> None:
    probe = probe_video(encode_video(clip(1, 64, 48, 3)))
    assert probe.times_s.tolist() == [0.0]
    assert probe.avg_fps > 0


_IMAGE_SEEDS: list[Callable[[], bytes]] = [
    lambda: encode_image(photo(64, 48, 1), "JPEG", orientation=6),
    lambda: encode_image(photo(64, 48, 1), "JPEG", progressive=True),
    lambda: encode_image(photo(64, 48, 1), "PNG"),
    lambda: encode_image(photo(64, 48, 1), "WEBP"),
    lambda: encode_image(photo(64, 48, 1), "GIF"),
    lambda: encode_image(photo(64, 48, 1), "BMP"),
    lambda: encode_image(photo(64, 48, 1), "TIFF", compression="tiff_lzw"),
    lambda: encode_image(photo(64, 48, 1), "AVIF"),
    lambda: encode_image(photo(64, 48, 1), "HEIF"),
]

_VIDEO_SEEDS = [
    ("mp4", "h264"), ("mov", "mpeg4"), ("mkv", "hevc"), ("webm", "vp9"), ("avi", "mpeg4"), ("mpegts", "h264"),
    ("mpegps", "mpeg2"), ("flv", "flv1"), ("asf", "wmv2"), ("ogg", "vp8"), ("gif", "gif"), ("mkv", "av1"),
    ("mkv", "ffv1"), ("avi", "mjpeg"),
]  # fmt: skip


def _decode_some_video(data: bytes) -> None:
    probe = probe_video(data)
    n_frames = len(probe.times_s)
    assert n_frames > 0
    assert np.isfinite(probe.times_s).all()
    assert (np.diff(probe.times_s) >= 0).all()
    assert probe.avg_fps > 0
    frames = read_frames(data, probe, np.unique(np.linspace(0, n_frames - 1, 4).astype(np.int64)), 32, 64)
    assert frames.shape[1:] == (32, 64, 3)


def _outcome(decode: Callable[[bytes], object], data: bytes) -> str:
    """How decoding `data` ended; anything but a result or a RejectError fails the test."""
    started = time.perf_counter()
    try:
        decode(data)
        outcome, detail = "decoded", ""
    except RejectError as error:
        outcome, detail = error.code.value, error.detail
    assert "0x" not in detail
    assert time.perf_counter() - started < 10
    return outcome


def test_damaged_images_are_decoded_or_refused() -> None:
    rng = np.random.default_rng(20_261_124)
    seeds = [seed() for seed in _IMAGE_SEEDS]
    outcomes = {
        _outcome(lambda data: decode_image(data, exif=True), mutate(seed, rng)) for seed in seeds for _ in range(600)
    }
    known = {"decoded", "IMAGE_UNREADABLE", "IMAGE_TOO_LARGE", "UNSUPPORTED_FORMAT", "EMPTY_MEDIA"}
    assert {"decoded", "IMAGE_UNREADABLE"} <= outcomes <= known


@pytest.mark.parametrize(("container", "codec"), _VIDEO_SEEDS)
def test_damaged_videos_are_decoded_or_refused(container: str, codec: str) -> None:
    rng = np.random.default_rng(20_261_124)
    seed = encode_video(clip(10, 64, 48, 3), container=container, codec=codec, gop=5)
    outcomes = {_outcome(_decode_some_video, mutate(seed, rng)) for _ in range(300)}
    known = {
        "decoded", "VIDEO_UNREADABLE", "NO_VIDEO_STREAM", "UNSUPPORTED_FORMAT", "EMPTY_MEDIA", "IMAGE_TOO_LARGE",
        "VIDEO_TOO_LONG",
    }  # fmt: skip
    assert outcomes <= known
    assert "decoded" in outcomes


_HEADS = [b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0\x08\0\0\0", b"RIFF\x20\0\0\0WEBPVP8 "]
_VIDEO_HEADS = [
    b"\0\0\0\x10ftypisom\0\0\0\0",
    b"\x1aE\xdf\xa3\x84webm",
    b"RIFF\0\1\0\0AVI LIST",
    b"FLV\x01\x05",
]


@settings(max_examples=150)
@given(st.sampled_from(_HEADS + _VIDEO_HEADS), st.binary(max_size=400))
def test_magic_before_noise_is_refused_or_decoded(head: bytes, noise: bytes) -> None:
    _outcome(lambda data: decode_image(data, exif=True), head + noise)
    _outcome(_decode_some_video, head + noise)


def test_every_prefix_of_a_file_has_an_outcome() -> None:
    for container, codec in (("mp4", "h264"), ("mkv", "vp9"), ("avi", "mpeg4")):
        data = encode_video(clip(10, 64, 48, 3), container=container, codec=codec)
        outcomes = [_outcome(_decode_some_video, data[:end]) for end in range(0, len(data), max(1, len(data) // 60))]
        assert outcomes[0] == RejectCode.EMPTY_MEDIA


PLAYLISTS = {
    "hls": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "hls file": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
    "subtitle": b"1\n00:00:00,000 --> 00:00:01,000\nconcat:/etc/passwd\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("disguise", [b"", b"\0\0\0\x10ftypisom\0\0\0\0", b"FLV\x01\x05\0\0\0\x09\0\0\0\0", b"GIF89a"])
def test_playlists_open_nothing(name: str, disguise: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object, **__: object) -> socket.socket:
        raise AssertionError("a decoder opened a socket")

    monkeypatch.setattr(socket, "socket", no_socket)
    started = time.perf_counter()
    with pytest.raises(RejectError) as caught:
        probe_video(disguise + PLAYLISTS[name])
    assert time.perf_counter() - started < 10
    assert caught.value.code in {
        RejectCode.UNSUPPORTED_FORMAT, RejectCode.VIDEO_UNREADABLE, RejectCode.NO_VIDEO_STREAM,
    }  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such policies on this system")
def test_making_av1_leaves_the_process_an_ordinary_one() -> None:
    encode_video(clip(2, 64, 64, 1), container="mkv", codec="av1")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
