"""Video bytes into the frames somebody wants, by the time they are shown.

In: the bytes of one video file. Out: a `VideoProbe` (size and exact frame times, from demuxing plus one decoded
frame), and resized uint8 frames. Refused: what `pipeline.decode.container` refuses, a stream of which nothing can be
decoded, and one of which most wanted frames cannot (VIDEO_UNREADABLE).

RGB is FFmpeg's own conversion by the stream's matrix and range, which the reference's decoder uses too (equal to the
bit on 8-bit 4:2:0). Alpha is dropped, deeper samples are rounded to 8 bits (HDR is not tone-mapped), pixel aspect
ratios are not applied: all as the reference.

Rule for damage: a wanted frame that cannot be decoded is shown as a player shows it, by the nearest earlier one (before
the first, by the first). A file that ends early is a shorter video.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.config import DecodeConfig
from pipeline.decode.container import decode_packet, opened_video, read_packets
from pipeline.decode.limits import DEFAULT_LIMITS
from pipeline.decode.resize import resize_frame
from pipeline.decode.timeline import Stamp, Timeline, build_timeline
from pipeline.errors import RejectCode, RejectError

__all__ = ["VideoProbe", "probe_video", "read_frames"]

FALLBACK_FPS = 25.0  # FFmpeg's own guess where a file gives no time at all

HELD_FRAMES = 2
"""Frame intervals that a wanted picture may be old: fields stored apart and single drops pass, freezes do not."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoProbe:
    """What a video is. `height_px`, `width_px`: of a frame as shown, after rotation.

    `times_s`: float64[n], when each frame is shown, from the first, rising. `avg_fps`: the container's rate if it
    places the last frame within one frame of where it is, else frames by real time. `quarter_turns`: counter-clockwise
    turns that make a decoded frame upright. `timeline`: for `read_frames`.
    """

    height_px: int
    width_px: int
    times_s: NDArray[np.float64]
    avg_fps: float
    quarter_turns: int
    timeline: Timeline


def probe_video(data: bytes, *, rotate: bool = True, limits: DecodeConfig = DEFAULT_LIMITS) -> VideoProbe:
    """Size, times and rate of the video in `data`; with `rotate` its display matrix turns frames upright.

    The reference's decoder turns frames too; mirroring matrices are not applied. Raises RejectError.
    """
    with opened_video(data, limits) as (container, stream):
        packets = islice(read_packets(container, stream), limits.max_packets + 1)
        stamps = [_stamp(packet, stream) for packet in packets]
        declared, time_base = stream.average_rate, stream.time_base
    if len(stamps) > limits.max_packets:
        raise RejectError(RejectCode.VIDEO_TOO_LONG, f"more than {limits.max_packets} packets")
    if not stamps:
        raise RejectError(RejectCode.VIDEO_UNREADABLE, "the video stream holds no packet")
    timeline = build_timeline(stamps)
    if not len(timeline.shown):
        raise RejectError(RejectCode.VIDEO_UNREADABLE, "the video stream shows no frame")
    times = _seconds(timeline, time_base, declared)
    if times[-1] > limits.max_duration_s:
        raise RejectError(RejectCode.VIDEO_TOO_LONG, f"{times[-1]:.0f} s from the first frame to the last")
    height, width, rotation = _first_picture(data, timeline.first, limits)
    turns = round(rotation / 90) % 4 if rotate else 0
    if turns % 2:
        height, width = width, height
    return VideoProbe(height, width, times, _average_fps(times, declared), turns, timeline)


def read_frames(
    data: bytes,
    probe: VideoProbe,
    indices: NDArray[np.int64],
    height_px: int,
    width_px: int,
    *,
    limits: DecodeConfig = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Frames `indices` (int64[k], ascending, may repeat) as uint8[k, height_px, width_px, 3].

    Each is resized as it is decoded; beyond the result one full-size RGB frame exists at a time. Decodes only groups
    of pictures that hold a wanted frame and stops after the last one. Raises RejectError.
    """
    wanted, places = np.unique(indices, return_inverse=True)
    reader = _Reader(probe, wanted, (height_px, width_px), limits)
    if not reader.read(data, thorough=False):
        # Something is missing: only with every frame decoded is "the nearest earlier one" well defined.
        reader = _Reader(probe, wanted, (height_px, width_px), limits)
        reader.read(data, thorough=True)
        reader.check()
    return reader.pixels[places]


def _stamp(packet: Packet[VideoStream], stream: VideoStream) -> Stamp:
    hidden = packet.is_discard or (stream.codec_context.name == "vp8" and _is_hidden_vp8(packet))
    # AVI stores no presentation time; what FFmpeg puts there is wrong as soon as there are B-frames.
    pts = None if stream.container.format.name == "avi" else packet.pts
    return Stamp(pts, packet.dts, packet.is_keyframe, hidden)


def _is_hidden_vp8(packet: Packet[VideoStream]) -> bool:
    # RFC 6386 §9.1: bit 4 of the frame tag is show_frame; WebM keeps alt-ref frames as packets of their own.
    return not memoryview(packet)[0] >> 4 & 1


def _first_picture(data: bytes, first: int, limits: DecodeConfig) -> tuple[int, int, int]:
    """(height_px, width_px, counter-clockwise degrees) of the first frame that decodes."""
    with opened_video(data, limits) as (container, stream):
        for place, packet in enumerate(read_packets(container, stream)):
            frames = decode_packet(stream, packet, limits) if place >= first else []
            if frames:
                return frames[0].height, frames[0].width, frames[0].rotation
        frames = decode_packet(stream, None, limits)
        if not frames:
            raise RejectError(RejectCode.VIDEO_UNREADABLE, "no frame can be decoded")
        return frames[0].height, frames[0].width, frames[0].rotation


def _seconds(timeline: Timeline, time_base: Fraction | None, declared: Fraction | None) -> NDArray[np.float64]:
    shown = timeline.shown
    if timeline.counted and np.array_equal(timeline.packets, np.arange(len(timeline.packets))):
        return np.arange(len(shown)) / (float(declared) if declared else FALLBACK_FPS)
    base = time_base or Fraction(1, 1000)
    return np.asarray((shown - shown[0]) * base.numerator / base.denominator, np.float64)


def _average_fps(times_s: NDArray[np.float64], declared: Fraction | None) -> float:
    rate, span_s, steps = float(declared or 0), float(times_s[-1]), len(times_s) - 1
    if span_s <= 0:
        return rate or FALLBACK_FPS
    return rate if rate > 0 and abs(rate * span_s - steps) <= 1 else steps / span_s


class _Reader:
    """One pass over a file that fills `pixels`, a row a wanted frame."""

    def __init__(
        self, probe: VideoProbe, wanted: NDArray[np.int64], size_px: tuple[int, int], limits: DecodeConfig
    ) -> None:
        self.pixels = np.empty((len(wanted), *size_px, 3), np.uint8)
        self._limits = limits
        self._probe = probe
        self._wanted = wanted
        self._targets = wanted if probe.timeline.counted else probe.timeline.shown[wanted]
        self._shown_at = np.full(len(wanted), np.iinfo(np.int64).min)
        self._filled = 0
        self._decoded = 0
        self._held: VideoFrame | None = None
        self._held_at = 0
        self._reformatter = VideoReformatter()

    def read(self, data: bytes, *, thorough: bool) -> bool:
        """Decode until every wanted frame is filled; whether each one is exactly the frame that was meant."""
        with opened_video(data, self._limits) as (container, stream):
            for frame in self._frames(read_packets(container, stream), stream, thorough=thorough):
                self._take(frame)
                if self._filled == len(self._targets):
                    break
            self._fill_before(None)
        return bool(np.array_equal(self._shown_at, self._targets))

    def check(self) -> None:
        """Raise VIDEO_UNREADABLE if nothing was decoded, or if most wanted frames show a stale picture."""
        if not self._decoded:
            raise RejectError(RejectCode.VIDEO_UNREADABLE, "no frame can be decoded")
        times, shown = self._probe.times_s, self._probe.timeline.shown
        ticks = np.arange(len(shown)) if self._probe.timeline.counted else shown
        shown_s = times[np.clip(np.searchsorted(ticks, self._shown_at), 0, len(ticks) - 1)]
        stale = np.abs(times[self._wanted] - shown_s) > HELD_FRAMES / self._probe.avg_fps
        if stale.sum() * 2 > len(stale):
            detail = f"{int(stale.sum())} of {len(stale)} wanted frames cannot be decoded"
            raise RejectError(RejectCode.VIDEO_UNREADABLE, detail)

    def _frames(
        self, packets: Iterator[Packet[VideoStream]], stream: VideoStream, *, thorough: bool
    ) -> Iterator[VideoFrame]:
        """Frames in presentation order, with the groups that hold no wanted one left out unless `thorough`."""
        timeline = self._probe.timeline
        needed = timeline.needed(timeline.shown if thorough else self._targets)
        meant = frozenset(self._targets.tolist())
        # In H.264 a frame that nothing refers to says so; elsewhere the mark is weaker than that.
        skips = stream.codec_context.name == "h264" and not thorough and not timeline.counted
        fed = False
        for place, packet in enumerate(packets):
            if place >= len(needed) or not needed[place]:
                if fed:
                    yield from decode_packet(stream, None, self._limits)
                    stream.codec_context.flush_buffers()
                fed = False
                continue
            if skips:
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in meant else "NONREF"
            yield from decode_packet(stream, packet, self._limits)
            fed = True
        if fed:
            yield from decode_packet(stream, None, self._limits)

    def _take(self, frame: VideoFrame) -> None:
        at = self._decoded if self._probe.timeline.counted else frame.pts
        self._decoded += 1
        if at is None or (self._held is not None and at <= self._held_at):
            return  # a second picture for one moment, or a leading one whose references were never fed
        if self._held is None:
            self._held, self._held_at = frame, at
        self._fill_before(at)
        self._held, self._held_at = frame, at
        if self._filled < len(self._targets) and self._targets[self._filled] == at:
            self._fill(frame, at)

    def _fill_before(self, at: int | None) -> None:
        """Give targets that lie before `at` (None: all that are left) the picture still on show."""
        while self._filled < len(self._targets) and (at is None or self._targets[self._filled] < at):
            if self._held is None:
                return
            self._fill(self._held, self._held_at)

    def _fill(self, frame: VideoFrame, at: int) -> None:
        # rgb24 is bytes by definition; asarray only says so to the type checker.
        rgb = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), np.uint8)
        upright = np.rot90(rgb, self._probe.quarter_turns)
        height, width = self.pixels.shape[1:3]
        self.pixels[self._filled] = resize_frame(upright, height, width)
        self._shown_at[self._filled] = at
        self._filled += 1
