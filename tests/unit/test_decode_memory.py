"""Memory that does not suffice is told as that, wherever in decoding it ends: not as damage, and not as a hang."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode.video import probe_video
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob
from pipeline.types import LoadedMedia, MediaKind
from tests.fixtures.media import clip, encode_video


@pytest.fixture(scope="module")
def job() -> MediaJob:
    data = encode_video(clip(6, 1920, 1088, 1), container="mp4", codec="mpeg4", fps=4)
    return MediaJob((LoadedMedia(MediaKind.VIDEO, (data,)),), 4.0, 4, 8192, 7000)


# In FFmpeg's decoder, in Python, and in the resizing, where OpenBLAS would wait for ever for its buffers.
@pytest.mark.parametrize("memory_mb", [16, 32, 48])
def test_a_clip_without_the_memory_it_needs_is_told_as_that(memory_mb: int, job: MediaJob) -> None:
    limits = DecodeConfig().model_copy(update={"memory_mb": memory_mb, "timeout_s": 30.0})
    with (
        DecodePool(partial(equip_drafter, InputsConfig(), limits), limits) as pool,
        pytest.raises(RejectError) as caught,
    ):
        pool.result(pool.submit(job))
    assert caught.value.code is RejectCode.DECODE_MEMORY


def test_with_the_memory_it_needs_the_clip_is_read_as_without_any_limit(job: MediaJob) -> None:
    limits = DecodeConfig().model_copy(update={"memory_mb": 192})
    with DecodePool(partial(equip_drafter, InputsConfig(), limits), limits) as pool:
        (confined,) = pool.result(pool.submit(job)).media
    (free,) = equip_drafter(InputsConfig(), limits)(job).media
    assert np.array_equal(confined.visual.frames, free.visual.frames)


def test_a_packet_of_an_absurd_size_is_damage_and_what_came_before_it_is_read() -> None:
    data = bytearray(encode_video(clip(8, 64, 48, 1), container="mp4", codec="mpeg4"))
    sizes = data.index(b"stsz") + 16
    data[sizes + 12 : sizes + 16] = (0x3D00_0000).to_bytes(4, "big")  # FFmpeg believes what is below 2**30
    assert len(probe_video(bytes(data)).times_s) == 3
