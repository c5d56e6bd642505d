"""The right frames at the right times, whatever the container claims."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode import video as video_module
from pipeline.decode.container import decode_packet
from pipeline.decode.resize import resize_frames
from pipeline.decode.timeline import Stamp, build_timeline
from pipeline.decode.video import VideoProbe, probe_video, read_frames
from pipeline.errors import RejectCode, RejectError
from tests.fixtures.decord_oracle import decord_frames
from tests.fixtures.media import (
    Picture,
    audio_only,
    clip,
    cut,
    encode_image,
    encode_video,
    lossless_video,
    lying_container,
    packed_bframes,
    photo,
    with_hidden_vp8,
    without_keyframe_start,
)

FRAMES = clip(25, 160, 96, 3)
VFR_MS = [0, 40, 100, 300, 1000, 1010, 1500, 9000]


def _read_all(data: bytes, probe: VideoProbe | None = None) -> tuple[VideoProbe, Picture]:
    probe = probe or probe_video(data)
    every = np.arange(len(probe.times_s))
    return probe, read_frames(data, probe, every, probe.height_px, probe.width_px)


def _numbers(frames: Picture) -> list[int]:
    """The numbers that `clip` wrote into the frames' corners."""
    return [round(float(frame[2:14, 2:14].mean()) / 8) for frame in frames]


def _code(call: Callable[[], object]) -> RejectCode:
    with pytest.raises(RejectError) as caught:
        call()
    assert "0x" not in caught.value.detail
    return caught.value.code


def test_lossless_video_comes_back_to_the_bit() -> None:
    probe, frames = _read_all(lossless_video(FRAMES, 10))
    assert np.array_equal(frames, np.stack(FRAMES))
    assert (probe.height_px, probe.width_px, probe.avg_fps) == (96, 160, 10.0)
    assert np.allclose(probe.times_s, np.arange(25) / 10)


def test_indices_may_repeat_and_frames_are_resized_as_frames_are() -> None:
    data = lossless_video(FRAMES, 10)
    indices = np.array([0, 3, 3, 3, 17, 24, 24])
    got = read_frames(data, probe_video(data), indices, 64, 32)
    assert np.array_equal(got, resize_frames(np.stack(FRAMES)[indices], 64, 32))


CASES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: encode_video(FRAMES),
    "bframes": lambda: encode_video(FRAMES, bframes=2),
    "bt709": lambda: encode_video(FRAMES, matrix="bt709"),
    "full range": lambda: encode_video(FRAMES, pix_fmt="yuvj420p"),
    "4:4:4": lambda: encode_video(FRAMES, pix_fmt="yuv444p"),
    "odd size": lambda: encode_video(clip(12, 162, 98, 3)),
    "1080p": lambda: encode_video(clip(3, 1920, 1080, 3), matrix="bt709"),
    "turned 90": lambda: encode_video(FRAMES, rotation=90),
    "turned 180": lambda: encode_video(FRAMES, rotation=180),
    "turned 270": lambda: encode_video(FRAMES, rotation=-90),
    "variable rate": lambda: encode_video(FRAMES[:8], pts_ms=VFR_MS, bframes=2),
    "hevc open gop": lambda: encode_video(
        FRAMES, codec="hevc", bframes=2, options={"x265-params": "open-gop=1:log-level=none:pools=1"}
    ),
    "vp9": lambda: encode_video(FRAMES, codec="vp9"),
    "mpeg4": lambda: encode_video(FRAMES, codec="mpeg4", bframes=2),
    "edit list": lambda: encode_video(FRAMES, bframes=2, container_options={"movflags": "+negative_cts_offsets"}),
    "fragments": lambda: encode_video(FRAMES, container_options={"movflags": "frag_keyframe+empty_moov"}),
    "29.97": lambda: encode_video(clip(40, 64, 64, 1), fps=30000 / 1001),
    "lying": lambda: lying_container(FRAMES, fps=10, claimed_fps=30),
}
TRUE_RATE = {"variable rate": 7 / 9, "lying": 10.0}
"""Where the reference believes the container and we the frames."""


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, tuple[bytes, dict[str, NDArray[np.float64]]]]:
    folder = tmp_path_factory.mktemp("reference")
    files = {name: folder / f"{place}.mkv" for place, name in enumerate(CASES)}
    for name, path in files.items():
        path.write_bytes(CASES[name]())
    decord_frames(list(files.values()))
    return {name: (path.read_bytes(), dict(np.load(Path(f"{path}.npz")))) for name, path in files.items()}


@pytest.mark.parametrize("name", CASES)
def test_frames_equal_the_reference_decoder_s(
    name: str, reference: dict[str, tuple[bytes, dict[str, NDArray[np.float64]]]]
) -> None:
    data, expected = reference[name]
    probe, frames = _read_all(data)
    assert np.array_equal(frames, expected["frames"])
    assert np.allclose(probe.times_s, expected["times"] - expected["times"][0], atol=1e-6)
    assert probe.avg_fps == pytest.approx(TRUE_RATE.get(name, float(expected["fps"])))


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_turns_size_and_pixels(rotation: int) -> None:
    data = encode_video(FRAMES[:4], rotation=rotation)
    straight, lying = _read_all(data, probe_video(data, rotate=False))
    turned, upright = _read_all(data)
    assert (straight.height_px, straight.width_px) == (96, 160)
    assert (turned.height_px, turned.width_px) == ((160, 96) if rotation % 180 else (96, 160))
    assert np.array_equal(upright, np.rot90(lying, rotation // 90, axes=(1, 2)))


def test_a_variable_rate_keeps_its_times() -> None:
    for container in ("mp4", "mkv"):
        probe, frames = _read_all(encode_video(FRAMES[:8], container=container, pts_ms=VFR_MS, bframes=2))
        assert np.allclose(probe.times_s, np.array(VFR_MS) / 1000)
        assert _numbers(frames) == list(range(8))


def test_ten_hours_of_slides_cost_twenty_frames() -> None:
    data = encode_video(FRAMES[:20], container="mkv", pts_ms=[place * 1_894_737 for place in range(20)])
    probe = probe_video(data)
    assert probe.times_s[-1] == pytest.approx(36_000, abs=1)
    assert _numbers(read_frames(data, probe, np.array([0, 10, 19]), 96, 160)) == [0, 10, 19]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[Packet[VideoStream]]:
    """The packets that decoders have been given so far."""
    packets: list[Packet[VideoStream]] = []

    def note(stream: VideoStream, packet: Packet[VideoStream] | None, limits: DecodeConfig) -> list[VideoFrame]:
        packets.extend([packet] if packet else [])
        return decode_packet(stream, packet, limits)

    monkeypatch.setattr(video_module, "decode_packet", note)
    return packets


def test_only_groups_with_wanted_frames_are_decoded(fed: list[Packet[VideoStream]]) -> None:
    data = encode_video(clip(60, 160, 96, 3), bframes=2, gop=10)
    probe = probe_video(data)
    fed.clear()
    frames = read_frames(data, probe, np.array([3, 45]), 96, 160)
    assert _numbers(frames) == [3, 15]  # the corner counts modulo 30
    assert len(fed) <= 20


def test_reading_stops_after_the_last_wanted_frame(fed: list[Packet[VideoStream]]) -> None:
    data = encode_video(FRAMES, gop=100)
    probe = probe_video(data)
    fed.clear()
    read_frames(data, probe, np.array([0, 4]), 96, 160)
    assert len(fed) <= 10


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("open_gop", [0, 1])
def test_sparse_reading_equals_reading_everything(bframes: int, open_gop: int) -> None:
    options = {"x264-params": f"open-gop={open_gop}:b-adapt=0"}
    for container in ("mp4", "mkv", "mpegts"):
        data = encode_video(clip(50, 160, 96, 4), container=container, bframes=bframes, gop=8, options=options)
        probe, everything = _read_all(data)
        assert len(everything) == 50
        for first in range(7):
            indices = np.arange(first, 50, 7)
            assert np.array_equal(read_frames(data, probe, indices, 96, 160), everything[indices])


def test_avi_counts_its_frames() -> None:
    for data in (encode_video(FRAMES, container="avi", bframes=2), packed_bframes(FRAMES[:21])):
        probe, frames = _read_all(data)
        assert _numbers(frames) == list(range(len(frames)))
        assert np.allclose(probe.times_s, np.arange(len(frames)) / 10)
        assert _numbers(read_frames(data, probe, np.array([4, 11]), 96, 160)) == [4, 11]


def test_hidden_vp8_frames_do_not_count() -> None:
    probe, frames = _read_all(with_hidden_vp8(FRAMES, frozenset({5, 9})))
    assert _numbers(frames) == [n for n in range(25) if n not in (5, 9)]
    assert 0.5 not in probe.times_s.round(3)


def test_a_recording_begun_in_mid_stream_starts_at_its_first_keyframe() -> None:
    probe, frames = _read_all(without_keyframe_start(encode_video(FRAMES, container="mpegts", bframes=2), 5))
    assert _numbers(frames) == list(range(12, 25))
    assert probe.times_s[0] == 0


def test_a_damaged_frame_is_shown_as_players_show_it() -> None:
    data = bytearray(encode_video(FRAMES, container="avi", codec="mjpeg", fps=10))
    probe, whole = _read_all(bytes(data))
    starts = [
        at for at in range(len(data) - 4) if data[at : at + 4] == b"00dc" and data[at + 8 : at + 10] == b"\xff\xd8"
    ]
    assert len(starts) == 25
    data[starts[6] + 8 : starts[6] + 200] = bytes(192)
    _, frames = _read_all(bytes(data), probe)
    assert np.array_equal(frames[:6], whole[:6])
    assert len(frames) == 25


def _blanked(data: bytes, places: range) -> bytes:
    """MKV-framed MJPEG `data` with the pictures at `places` made undecodable."""
    # Tables and frame headers lie in a picture's first 700 bytes.
    changed, at = bytearray(data), 0
    for place in range(len(FRAMES)):
        at = data.index(b"\xff\xd8\xff", at + 1)
        if place in places:
            changed[at : at + 1000] = bytes(1000)
    return bytes(changed)


def test_lost_frames_hold_the_one_before() -> None:
    data = encode_video(FRAMES, container="mkv", codec="mjpeg")
    probe, frames = _read_all(_blanked(data, range(6, 8)))
    assert len(probe.times_s) == 25
    assert _numbers(frames) == [*range(6), 5, 5, *range(8, 25)]
    first_lost = _blanked(data, range(0, 1))
    assert _numbers(_read_all(first_lost)[1])[:3] == [1, 1, 2]


def test_mostly_lost_is_unreadable() -> None:
    data = encode_video(FRAMES, container="mkv", codec="mjpeg")
    assert _code(lambda: _read_all(_blanked(data, range(3, 25)))) is RejectCode.VIDEO_UNREADABLE
    assert _code(lambda: _read_all(_blanked(data, range(25)))) is RejectCode.VIDEO_UNREADABLE


@pytest.mark.parametrize("container", ["mkv", "avi", "mpegts"])
def test_a_cut_file_is_a_shorter_video(container: str) -> None:
    codec = "mpeg4" if container == "avi" else "h264"
    probe, frames = _read_all(cut(encode_video(FRAMES, container=container, codec=codec), 0.7))
    assert 8 <= len(probe.times_s) < 25
    assert _numbers(frames[:-2]) == list(range(len(frames) - 2))


def test_a_cut_mp4_without_its_index_is_unreadable() -> None:
    assert _code(lambda: probe_video(cut(encode_video(FRAMES), 0.6))) is RejectCode.VIDEO_UNREADABLE


@pytest.mark.parametrize("cover", [False, True])
def test_sound_is_no_video(cover: bool) -> None:
    assert _code(lambda: probe_video(audio_only(cover=cover))) is RejectCode.NO_VIDEO_STREAM


def test_empty_foreign_and_misplaced_bytes() -> None:
    assert _code(lambda: probe_video(b"")) is RejectCode.EMPTY_MEDIA
    assert _code(lambda: probe_video(b"#EXTM3U\n")) is RejectCode.UNSUPPORTED_FORMAT
    assert _code(lambda: probe_video(encode_image(photo(32, 32, 1), "PNG"))) is RejectCode.UNSUPPORTED_FORMAT


def test_frames_beyond_the_cap_are_refused() -> None:
    wide = [np.zeros((16, 16_400, 3), np.uint8)] * 2
    assert _code(lambda: probe_video(encode_video(wide, container="mkv", codec="ffv1"))) is RejectCode.IMAGE_TOO_LARGE
    gif = bytearray(encode_video(clip(3, 64, 48, 1), container="gif", codec="gif"))
    gif[6:10] = (12_000).to_bytes(2, "little") * 2
    refused = {RejectCode.IMAGE_TOO_LARGE, RejectCode.VIDEO_UNREADABLE}
    assert _code(lambda: probe_video(bytes(gif))) in refused


def _stamps(*triples: tuple[int | None, bool]) -> list[Stamp]:
    return [Stamp(pts, place, key, hidden=False) for place, (pts, key) in enumerate(triples)]


def test_timeline_drops_what_no_decoder_gives() -> None:
    timeline = build_timeline(_stamps((0, False), (20, True), (10, False), (30, False), (30, False)))
    assert timeline.first == 1
    assert timeline.shown.tolist() == [20, 30]


def test_timeline_feeds_the_group_before_for_a_leading_frame() -> None:
    timeline = build_timeline(_stamps((0, True), (10, False), (30, True), (20, False), (40, False), (50, True)))
    assert timeline.needed(np.array([20])).tolist() == [True] * 5 + [False]
    assert timeline.needed(np.array([40])).tolist() == [False, False, True, True, True, False]
    assert timeline.needed(np.array([10, 50])).tolist() == [True, True, False, False, False, True]


def test_timeline_without_keyframes_or_times() -> None:
    assert build_timeline(_stamps((5, False), (3, False))).shown.tolist() == [3, 5]
    counted = build_timeline(_stamps((None, True), (4, False), (None, False)))
    assert counted.counted
    assert counted.shown.tolist() == [0, 1, 2]
    blind = build_timeline([Stamp(None, None, True, False), Stamp(None, None, False, False)])
    assert blind.shown.tolist() == [0, 1]
