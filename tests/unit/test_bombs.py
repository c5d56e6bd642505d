"""Bombs end as rejects within a second, and cost no memory worth the name, in the child that a job decodes in."""

from __future__ import annotations

import time
from functools import partial

import pytest

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob
from pipeline.types import LoadedMedia
from tests.fixtures.bombs import BOMBS, bomb

LIMIT_S = 1.0
LIMIT_KIB = 256 << 10

TOLD = {RejectCode.IMAGE_TOO_LARGE, RejectCode.VIDEO_TOO_LONG}
"""What a bomb should be called."""

MERELY_DAMAGED = {
    RejectCode.IMAGE_UNREADABLE, RejectCode.VIDEO_UNREADABLE, RejectCode.UNSUPPORTED_FORMAT, RejectCode.ASPECT_RATIO,
}  # fmt: skip
"""What some are called whose lie is found out before their size is known."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_a_second_and_a_quarter_of_a_gigabyte_at_most(name: str) -> None:
    kind, data = bomb(name)
    job = MediaJob((LoadedMedia(kind, (data,)),), 1.0, 64, 8192, None)
    # A fresh child for each: what one of them takes at most is told by the kernel, and only ever grows.
    with DecodePool(partial(equip_drafter, InputsConfig(), DecodeConfig())) as pool:
        before = pool.check().result()
        began = time.monotonic()
        with pytest.raises(RejectError) as caught:
            pool.result(pool.submit(job))
        took_s = time.monotonic() - began
        after = pool.check().result()
    print(
        f"{name}: {len(data)} bytes, {caught.value.code} ({caught.value.detail}), {took_s:.2f} s,"
        f" {(after.peak_kib - before.peak_kib) / 1024:.0f} MiB"
    )
    assert caught.value.code in TOLD | MERELY_DAMAGED
    assert after.pid == before.pid
    assert after.peak_kib - before.peak_kib < LIMIT_KIB
    # By the clock it is as much on a machine that has nothing else to do.
    assert after.cpu_s - before.cpu_s < LIMIT_S
