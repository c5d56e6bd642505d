"""Damaged files of eighteen formats through the real children: all accounted for, by codes, and nobody dies of one."""

from __future__ import annotations

import os
import re
import time
from collections import Counter, deque
from functools import partial
from pathlib import Path

import pytest

from pipeline.config import DecodeConfig, ImageConfig, InputsConfig, VideoConfig
from pipeline.decode_child import Read, equip_drafter
from pipeline.decode_pool import DecodePool, Ticket
from pipeline.errors import RejectCode, RejectError, Stage
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.types import LoadedMedia, MediaKind
from tests.fixtures.media import encode_image, photo
from tests.fixtures.mutated import FORMATS, Mutated

SEED = int(os.environ.get("LAKEVEC_MUTATION_SEED", "20261128"))
QUICK = int(os.environ.get("LAKEVEC_QUICK_MUTATIONS", "10000"))
FULL = int(os.environ.get("LAKEVEC_MUTATIONS", "200000"))

LIMITS = DecodeConfig(timeout_s=30)
INPUTS = InputsConfig(
    image=ImageConfig(min_pixels=1024, max_pixels=64 * 1024), video=VideoConfig(max_frames=4, total_pixels=128 * 1024)
)
"""Small results: it is decoding that is tried here, and sizes are tried elsewhere."""

AHEAD = 16

ADDRESS = re.compile(r"\b0x[0-9a-f]{6,}")


def outcome(pool: DecodePool, ticket: Ticket) -> str:
    try:
        pool.result(ticket)
    except RejectError as error:
        return "an address in its detail" if ADDRESS.search(error.detail) else str(error.code)
    return "decoded"


def outcomes(n_files: int, processes: int, keep: Path) -> Counter[str]:
    """What became of `n_files` damaged files; those of a bad end are written to `keep`."""
    files = Mutated(SEED)
    found: Counter[str] = Counter()
    waiting: deque[tuple[int, Ticket]] = deque()
    with DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS, processes) as pool:
        for number in range(n_files + AHEAD):
            if number < n_files:
                waiting.append((number, pool.submit(files.job(number))))
            if number >= AHEAD and waiting:
                place, ticket = waiting.popleft()
                ending = outcome(pool, ticket)
                found[ending] += 1
                if ending in BAD_ENDS:
                    (keep / f"{SEED}-{place}-{FORMATS[place % len(FORMATS)]}").write_bytes(files.file(place)[1])
        survivor = pool.check().result().pid
    assert survivor
    return found


BAD_ENDS = {
    "an address in its detail", "PREPARE_FAILED", "DECODER_CRASHED", "DECODE_TIMEOUT", "DECODE_MEMORY",
}  # fmt: skip


def judge(found: Counter[str], n_files: int, keep: Path) -> None:
    print(f"seed {SEED}: {dict(found)}")
    assert found.total() == n_files
    assert not BAD_ENDS & found.keys(), f"seed {SEED}, files in {keep}: {dict(found)}"
    assert all(ending == "decoded" or RejectCode(ending).meaning.stage is not Stage.RUN for ending in found)
    assert {"decoded", "IMAGE_UNREADABLE", "VIDEO_UNREADABLE"} <= found.keys()


def test_ten_thousand_damaged_files(tmp_path: Path) -> None:
    judge(outcomes(QUICK, 2, tmp_path), QUICK, tmp_path)


@pytest.mark.slow
def test_two_hundred_thousand_damaged_files(tmp_path: Path) -> None:
    began = time.monotonic()
    judge(outcomes(FULL, 2, tmp_path), FULL, tmp_path)
    print(f"{FULL / (time.monotonic() - began):.0f} files/s")


def test_the_sound_files_they_are_made_of_all_decode() -> None:
    with DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS) as pool:
        for kind, data in Mutated(SEED).sound:
            job = MediaJob((LoadedMedia(kind, (data,)),), 4.0, 4, 8192, 7000)
            assert outcome(pool, pool.submit(job)) == "decoded"


PLAYLISTS = {
    "hls of a url": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    "hls of a file": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "hls with a key": b'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="http://127.0.0.1:9/k"\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n',
    "concat script": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "concat protocol": b"concat:/etc/passwd|/etc/hostname",
    "subfile protocol": b"subfile,,start,0,end,100,,:/etc/passwd",
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": b'<?xml version="1.0"?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>',
    "rtsp list": b"[playlist]\nFile1=rtsp://127.0.0.1:9/a\nNumberOfEntries=1\n",
    "smb reference": b"#EXTM3U\nsmb://127.0.0.1/share/a.ts\n",
    "svg with a link": b'<svg xmlns:xlink="x"><image xlink:href="file:///etc/passwd"/></svg>',
    "quicktime reference": b"\0\0\0\x40moov\0\0\0\x38rmra\0\0\0\x30rmda\0\0\0\x28rdrf\0\0\0\0url \0\0\0\x14http://127.0.0.1:9/",
}

DISGUISES = {
    "as it is": b"",
    "as MP4": b"\0\0\0\x10ftypisom\0\0\0\0",
    "as FLV": b"FLV\x01\x05\0\0\0\x09\0\0\0\0",
    "as GIF": b"GIF89a",
}

_reached: list[str] = []


def equip_watched() -> Read:
    """The real reader, with an account of every file that it opened and every socket it asked for."""
    import sys

    reader = equip_drafter(INPUTS, LIMITS)
    # Decoders load what they need with their first file; that is not what is looked for.
    for kind, data in ((MediaKind.IMAGE, encode_image(photo(8, 8, 1), "PNG")), *Mutated(SEED).sound[-2:]):
        reader(MediaJob((LoadedMedia(kind, (data,)),), 4.0, 4, 8192, 7000))

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" or event.startswith(("socket.", "subprocess.", "os.system")):
            _reached.append(f"{event} {arguments[0]}")

    sys.addaudithook(watch)

    def read(job: MediaJob) -> ReadMedia:
        del _reached[:]
        try:
            return reader(job)
        except RejectError as error:
            raise RejectError(error.code, f"reached {[each for each in _reached if '.py' not in each]}") from None

    return read


def test_playlists_open_nothing_and_connect_to_nothing() -> None:
    refusing = {RejectCode.UNSUPPORTED_FORMAT, RejectCode.VIDEO_UNREADABLE, RejectCode.IMAGE_UNREADABLE} | {
        RejectCode.NO_VIDEO_STREAM, RejectCode.IMAGE_TOO_LARGE,
    }  # fmt: skip
    with DecodePool(equip_watched, LIMITS) as pool:
        pool.check().result()
        for name, playlist in PLAYLISTS.items():
            for disguise, head in DISGUISES.items():
                for kind in (MediaKind.VIDEO, MediaKind.IMAGE):
                    began = time.monotonic()
                    job = MediaJob((LoadedMedia(kind, (head + playlist,)),), 1.0, 4, None, None)
                    with pytest.raises(RejectError) as caught:
                        pool.result(pool.submit(job))
                    assert caught.value.code in refusing, (name, disguise, kind)
                    assert caught.value.detail == "reached []", (name, disguise, kind)
                    assert time.monotonic() - began < 20  # nothing waits for an answer from anywhere
