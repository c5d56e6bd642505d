"""A video file opened from memory, with nothing to reach outside it.

In: the bytes of one file. Out: its demuxer and best video stream. Refused: empty bytes (EMPTY_MEDIA), stills, playlists
and unknown bytes (UNSUPPORTED_FORMAT), files without a moving picture (NO_VIDEO_STREAM), frames of more pixels than the
limits allow (IMAGE_TOO_LARGE), sample tables of more entries (VIDEO_TOO_LONG), damage (VIDEO_UNREADABLE), and frames
there is no memory for (DECODE_MEMORY).

FFmpeg is given bytes, never an address; one demuxer, chosen by our own sniffing; and lists of formats and protocols
that hold nothing else. So a file that says "open that URL" has no way to be heard.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.config import DecodeConfig
from pipeline.decode.limits import DEFAULT_LIMITS
from pipeline.decode.mp4 import check_mp4
from pipeline.decode.native import translated
from pipeline.errors import RejectCode, RejectError
from pipeline.sniff import MediaFormat, sniff

__all__ = ["decode_packet", "opened_video", "read_packets"]

MAX_SIDE_PX = 16_384  # the widest frame any H.264, HEVC or VP9 level allows

IO_TIMEOUT_S = 10.0
"""Reads come from memory and never wait; if FFmpeg waits anyway, it found something else to wait for."""

OPENING_BYTES = 64 << 20
"""What FFmpeg may take to open a sound file, beside its bytes: frames of 4K, from which it learns what is in it."""

VIDEO_DAMAGE: tuple[type[Exception], ...] = (
    FFmpegError,  # all of FFmpeg's own codes; while it opens a file, a refused allocation of an absurd size among them
    OSError,
    ValueError,  # UnicodeDecodeError of damaged names too
    EOFError,
    LookupError,  # a stream that vanished
)
"""Everything that damaged bytes make PyAV raise."""

_DEMUXERS = {
    MediaFormat.MP4: "mov",
    MediaFormat.MOV: "mov",
    MediaFormat.MKV: "matroska",
    MediaFormat.WEBM: "matroska",
    MediaFormat.AVI: "avi",
    MediaFormat.MPEGTS: "mpegts",
    MediaFormat.MPEGPS: "mpeg",
    MediaFormat.FLV: "flv",
    MediaFormat.ASF: "asf",
    MediaFormat.OGG: "ogg",
    MediaFormat.GIF: "gif",
}


@contextmanager
def opened_video(data: bytes, limits: DecodeConfig = DEFAULT_LIMITS) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container in `data` and its best real video stream, ready to decode on one thread."""
    if not data:
        raise RejectError(RejectCode.EMPTY_MEDIA, "the video has no bytes")
    found = _video_format(data)
    if _DEMUXERS[found] == "mov":
        check_mp4(data, limits)
    with translated(RejectCode.VIDEO_UNREADABLE, f"{found} video", VIDEO_DAMAGE):
        container = _open(data, _DEMUXERS[found], limits)
        with container:
            yield container, _best_stream(container, limits)


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The stream's packets in decoding order, up to the end of the file or to where damage ends it.

    Empty ones are left out: they are FFmpeg's own end mark, and AVI's way to repeat a frame.
    Raises RejectError (DECODE_MEMORY).
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError as error:
            if _has_room_for(container.size):
                return  # what it wanted was no packet of this file
            raise _no_memory(error) from None
        except VIDEO_DAMAGE:
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def decode_packet(
    stream: VideoStream, packet: Packet[VideoStream] | None, limits: DecodeConfig = DEFAULT_LIMITS
) -> list[VideoFrame]:
    """The frames that `packet` completes (None: all that wait in the decoder), none if it is damaged.

    One damaged packet is no end: FFmpeg's decoders take up again at the next good one, as players do.
    Raises RejectError (DECODE_MEMORY, IMAGE_TOO_LARGE).
    """
    try:
        frames = stream.codec_context.decode(packet)
    except MemoryError as error:
        # Not damage: to go on would be to show the frame before it once more.
        raise _no_memory(error) from None
    except VIDEO_DAMAGE:
        return []
    for frame in frames:
        _check_size(frame.width, frame.height, limits)
    return frames


def _no_memory(error: MemoryError) -> RejectError:
    # PyAV's own error is an FFmpegError and a MemoryError, and names the call that failed.
    return RejectError(RejectCode.DECODE_MEMORY, f"FFmpeg found no memory: {error}")


def _has_room_for(n_bytes: int) -> bool:
    try:
        bytearray(max(0, n_bytes))
    except MemoryError:
        return False
    return True


def _video_format(data: bytes) -> MediaFormat:
    found = sniff(data)
    if found is None:
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, "the bytes start like no video format that lakevec reads")
    if not found.is_video:
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, f"this is a {found} picture; give it in the image column")
    return found


def _open(data: bytes, demuxer: str, limits: DecodeConfig) -> InputContainer:
    try:
        container: InputContainer = av.open(
            io.BytesIO(data),
            format=demuxer,
            container_options={"format_whitelist": demuxer, "protocol_whitelist": "none"},
            # Applies from the first frame that FFmpeg decodes to find the stream's parameters.
            options={"max_pixels": str(limits.max_frame_pixels)},
            timeout=IO_TIMEOUT_S,
            metadata_errors="replace",
        )
    except MemoryError as error:
        if _has_room_for(OPENING_BYTES + len(data)):
            # What it wanted was absurd.
            raise RejectError(RejectCode.VIDEO_UNREADABLE, f"{demuxer} video: {error}") from None
        raise _no_memory(error) from None
    return container


def _best_stream(container: InputContainer, limits: DecodeConfig) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise RejectError(RejectCode.NO_VIDEO_STREAM, "no stream of moving pictures (cover art is none)")
    context: VideoCodecContext | None = stream.codec_context
    if context is None:
        raise RejectError(RejectCode.UNSUPPORTED_FORMAT, "this FFmpeg has no decoder for the video's codec")
    _check_size(context.width, context.height, limits)
    # Frame threading deadlocks in some builds and gains nothing where every core has a worker.
    context.thread_type = "SLICE"
    context.thread_count = 1
    return stream


def _check_size(width_px: int, height_px: int, limits: DecodeConfig) -> None:
    if max(width_px, height_px) > MAX_SIDE_PX or width_px * height_px > limits.max_frame_pixels:
        raise RejectError(RejectCode.IMAGE_TOO_LARGE, f"frames of {width_px}×{height_px} px")
