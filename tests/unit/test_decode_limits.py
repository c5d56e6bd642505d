"""What a file may ask for is told from its bytes, and what merely looks like a bomb is read."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest

from pipeline.config import DecodeConfig
from pipeline.decode.image import decode_image, image_size
from pipeline.decode.limits import MAX_JPEG_SCANS
from pipeline.decode.mp4 import check_mp4
from pipeline.decode.video import probe_video
from pipeline.errors import RejectCode, RejectError
from tests.fixtures.media import clip, encode_image, encode_video, photo

PICTURE = photo(64, 48, 3)


def code_of(data: bytes, **limits: float) -> RejectCode:
    with pytest.raises(RejectError) as caught:
        probe_video(data, limits=DecodeConfig.model_validate(limits))
    return caught.value.code


def test_packets_and_duration_are_counted_where_the_container_lies_about_them() -> None:
    data = encode_video(clip(20, 64, 48, 1), container="mkv", codec="mpeg4", fps=10)
    assert len(probe_video(data, limits=DecodeConfig(max_packets=20, max_duration_s=2)).times_s) == 20
    assert code_of(data, max_packets=19) is RejectCode.VIDEO_TOO_LONG
    assert code_of(data, max_duration_s=1.8) is RejectCode.VIDEO_TOO_LONG


def test_frames_are_held_to_their_own_limit() -> None:
    data = encode_video(clip(3, 64, 48, 1))
    assert code_of(data, max_frame_pixels=64 * 48 - 1) is RejectCode.IMAGE_TOO_LARGE
    assert probe_video(data, limits=DecodeConfig(max_frame_pixels=64 * 64)).height_px == 48


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_an_image_of_exactly_the_limit_is_read(name: str) -> None:
    data = encode_image(PICTURE, name)
    assert image_size(decode_image(data, exif=True, limits=DecodeConfig(max_image_pixels=64 * 48))) == (48, 64)
    with pytest.raises(RejectError) as caught:
        decode_image(data, exif=True, limits=DecodeConfig(max_image_pixels=64 * 48 - 1))
    assert caught.value.code is RejectCode.IMAGE_TOO_LARGE


def test_what_follows_a_jpeg_is_no_scan_of_it() -> None:
    data = encode_image(PICTURE, "JPEG", progressive=True) + b"\xff\xda" * 2 * MAX_JPEG_SCANS
    assert image_size(decode_image(data, exif=True)) == (48, 64)
    segment = b"\xff\xe5\x0f\xa2" + b"\xff\xda" * 2000  # an APP5 of such bytes
    assert image_size(decode_image(data[:2] + segment + data[2:], exif=True)) == (48, 64)


def test_raw_sound_counts_each_of_its_samples_and_is_no_bomb() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="mov") as output:
        sound = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        tone = av.AudioFrame.from_ndarray(np.zeros((1, 32_000), np.int16), format="s16", layout="mono")
        tone.sample_rate, tone.pts, tone.time_base = 16_000, 0, Fraction(1, 16_000)
        output.mux(sound.encode(tone))
        output.mux(sound.encode(None))
    check_mp4(target.getvalue(), DecodeConfig(max_packets=100))


@pytest.mark.parametrize("cut", [8, 20, 60, 300])
def test_a_damaged_mp4_is_left_to_its_demuxer(cut: int) -> None:
    data = encode_video(clip(3, 64, 48, 1), container="mov")
    for start in range(0, len(data), 97):
        check_mp4(data[start : start + cut], DecodeConfig())


def _with_segments(data: bytes, start: bytes, count: int, marker: int = 0xE1) -> bytes:
    """`data`, a JPEG, with `count` full segments (64 KB each) in front of its own."""
    segment = bytes([0xFF, marker, 0xFF, 0xFF]) + start.ljust(0xFFFF - 2, b"\1")
    return data[:2] + segment * count + data[2:]


def test_metadata_that_cameras_write_is_read() -> None:
    data = encode_image(PICTURE, "JPEG", icc_profile=bytes(3 << 20))
    assert image_size(decode_image(data, exif=True)) == (48, 64)
    # A phone's depth map, or the picture before its background was blurred, as text in extended XMP.
    deep = _with_segments(data, b"http://ns.adobe.com/xmp/extension/\0", 200)
    assert len(deep) > 15 << 20
    assert image_size(decode_image(deep, exif=True)) == (48, 64)
    assert image_size(decode_image(data[:20] + bytes(1000) + data[20:], exif=True)) == (48, 64)


@pytest.mark.parametrize(("start", "marker"), [(b"Exif\0\0", 0xE1), (b"ICC_PROFILE\0\1\1", 0xE2)])
def test_joined_metadata_of_a_jpeg_is_held_to_the_limit(start: bytes, marker: int) -> None:
    data = _with_segments(encode_image(PICTURE, "JPEG"), start, 65, marker)
    with pytest.raises(RejectError, match=r"decode\.max_metadata_bytes: 4194304") as caught:
        decode_image(data, exif=True)
    assert caught.value.code is RejectCode.IMAGE_TOO_LARGE
    assert image_size(decode_image(data, exif=True, limits=DecodeConfig(max_metadata_bytes=5 << 20))) == (48, 64)


@pytest.mark.parametrize("marker", [b"\xff\xd9", b"\xff\xf0", b"\xff\xc8", b"\xff\xd0", b"\xff\xff", b""])
def test_nothing_in_front_hides_metadata(marker: bytes) -> None:
    """Whatever Pillow reads on after is read on after here, too."""
    data = encode_image(PICTURE, "JPEG")
    exif = _with_segments(data, b"Exif\0\0", 65)[2:]
    with pytest.raises(RejectError) as caught:
        decode_image(data[:2] + marker + exif, exif=True)
    assert caught.value.code is RejectCode.IMAGE_TOO_LARGE


def test_boxes_within_boxes_are_followed_as_deep_as_ffmpeg_follows_them() -> None:
    data = encode_video(clip(3, 64, 48, 1), container="mp4", codec="mpeg4")
    assert len(probe_video(data + nested_boxes(100_000)).times_s) == 3
    inside = data.replace(b"udta", b"moov")  # what lies there may be a table as well
    assert len(probe_video(inside).times_s) == 3


def test_a_file_of_too_many_boxes_is_refused_before_ffmpeg_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decode.mp4.MAX_BOXES", 1000)  # a million take seconds
    box = struct.pack(">I", 8) + b"free"
    with pytest.raises(RejectError) as caught:
        check_mp4(box * 1001, DecodeConfig())
    assert caught.value.code is RejectCode.VIDEO_TOO_LONG
    check_mp4(box * 1000, DecodeConfig())


def test_a_fragment_counts_as_the_seven_boxes_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
    short, long = (encode_video(clip(n, 64, 48, 1), codec="mpeg4", container_options=options) for n in (10, 60))
    counted = [fewest_boxes(data, monkeypatch) for data in (short, long)]
    assert counted[1] - counted[0] == 50 * 7


def fewest_boxes(data: bytes, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many boxes must be allowed for `data` to pass."""
    for most in range(1000):
        monkeypatch.setattr("pipeline.decode.mp4.MAX_BOXES", most)
        with suppress(RejectError):
            check_mp4(data, DecodeConfig())
            return most
    raise AssertionError("more than a thousand")


def nested_boxes(depth: int) -> bytes:
    """A `moov` that holds a `moov`, which holds one, and so on; eight bytes each."""
    return b"".join(struct.pack(">I", 8 * left) + b"moov" for left in range(depth, 0, -1))
