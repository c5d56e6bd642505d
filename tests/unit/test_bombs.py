"""Bombs end as rejects within a second, and cost no memory worth the name, in the child that a job decodes in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_child import Refusal, child_facts, equip_drafter, read
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectCode
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


@pytest.fixture(scope="module")
def children() -> Iterator[DecodePool]:
    with DecodePool(partial(equip_drafter, InputsConfig(), DecodeConfig())) as pool:
        yield pool


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_a_second_and_a_quarter_of_a_gigabyte_at_most(name: str, children: DecodePool) -> None:
    kind, data = bomb(name)
    job = MediaJob((LoadedMedia(kind, (data,)),), 1.0, 64, 8192, None)
    # A fresh child for each: what one of them took at most is told by the kernel, and only ever grows.
    pool = children._new(1)
    try:
        before = pool.schedule(child_facts).result()
        began = time.monotonic()
        answer = pool.schedule(read, args=(job,)).result()
        took_s = time.monotonic() - began
        after = pool.schedule(child_facts).result()
    finally:
        pool.stop()
        pool.join()
    assert isinstance(answer, Refusal)
    grown_kib = after.peak_kib - before.peak_kib
    print(
        f"{name}: {len(data)} bytes, {answer.code} ({answer.detail}), {took_s:.2f} s by the clock,"
        f" {after.cpu_s - before.cpu_s:.2f} s of CPU, {grown_kib / 1024:.0f} MiB"
    )
    assert answer.code in TOLD | MERELY_DAMAGED
    assert after.pid == before.pid
    assert grown_kib < LIMIT_KIB
    # By the clock it is as much on a machine that has nothing else to do.
    assert after.cpu_s - before.cpu_s < LIMIT_S
