"""Pixels that come back from a child through shared memory are those that come back in any other way."""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_arena import SLOT_BYTES, Packed
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import SLOTS, DecodePool, Ticket
from pipeline.errors import RejectCode, RejectError
from pipeline.media_job import MediaJob
from pipeline.preparation import Preparation
from pipeline.prepare import Preparer
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind
from tests.fixtures.media import clip, encode_image, encode_video, photo
from tests.fixtures.tokenizer import cached_tokenizer

INPUTS, LIMITS = InputsConfig(), DecodeConfig()


def job(*media: bytes, kind: MediaKind = MediaKind.IMAGE, max_frames: int = 64) -> MediaJob:
    return MediaJob(tuple(LoadedMedia(kind, (data,)) for data in media), 4.0, max_frames, None, None)


def frames(pool: DecodePool, ticket: Ticket) -> list[np.ndarray]:
    return [medium.visual.frames for medium in pool.result(ticket).media]


def came_by_slot(ticket: Ticket) -> bool:
    assert ticket.future is not None
    return isinstance(ticket.future.result(60), Packed)


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodePool]:
    with DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS) as pool:
        yield pool


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [encode_image(photo(320 + n, 200, n), "PNG") for n in range(2 * SLOTS)]


def here(*media: bytes, kind: MediaKind = MediaKind.IMAGE) -> list[np.ndarray]:
    return [medium.visual.frames for medium in equip_drafter(INPUTS, LIMITS)(job(*media, kind=kind)).media]


def test_more_answers_than_slots_are_all_right_and_none_is_another_s(pool: DecodePool, pictures: list[bytes]) -> None:
    tickets = [pool.submit(job(data)) for data in pictures]
    assert [came_by_slot(ticket) for ticket in tickets] == [True] * SLOTS + [False] * SLOTS
    found = [frames(pool, ticket)[0] for ticket in tickets]
    for data, pixels in zip(pictures, found, strict=True):
        assert np.array_equal(pixels, here(data)[0])
    # Used again, and what was handed out before stays what it was.
    again = pool.submit(job(pictures[-1], pictures[0], pictures[3]))
    assert came_by_slot(again)
    for data, pixels in zip((pictures[-1], pictures[0], pictures[3]), frames(pool, again), strict=True):
        assert np.array_equal(pixels, here(data)[0])
    for data, pixels in zip(pictures, found, strict=True):
        assert np.array_equal(pixels, here(data)[0])


def test_what_is_larger_than_a_slot_comes_through_the_pipe(pool: DecodePool) -> None:
    data = encode_video(clip(40, 480, 320, 1), container="mp4", codec="mpeg4", fps=4)
    ticket = pool.submit(job(data, kind=MediaKind.VIDEO))
    (found,) = frames(pool, ticket)
    assert found.nbytes > SLOT_BYTES
    assert not came_by_slot(ticket)
    assert np.array_equal(found, here(data, kind=MediaKind.VIDEO)[0])


def test_slots_come_back_from_rejects_and_from_the_dead(pictures: list[bytes]) -> None:
    with DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS) as pool:
        for _ in range(2 * SLOTS):
            with pytest.raises(RejectError) as caught:
                pool.result(pool.submit(job(b"no picture at all")))
            assert caught.value.code is RejectCode.UNSUPPORTED_FORMAT
        for n in range(3):
            child = pool.check().result().pid
            tickets = [pool.submit(job(data)) for data in pictures[:3]]
            os.kill(child, 9)
            for data, ticket in zip(pictures, tickets, strict=False):
                assert np.array_equal(frames(pool, ticket)[0], here(data)[0]), n
        tickets = [pool.submit(job(data)) for data in pictures[:SLOTS]]
        assert all(came_by_slot(ticket) for ticket in tickets)
        for ticket in tickets:
            pool.result(ticket)


def test_slots_come_back_from_what_nobody_asks_for(pool: DecodePool, pictures: list[bytes]) -> None:
    preparer = Preparer(PromptTokenizer(cached_tokenizer()), INPUTS)
    for _ in range(2 * SLOTS):
        items = [LoadedItem("a", (), (LoadedMedia(MediaKind.IMAGE, (data,)),)) for data in pictures[:4]]
        made = Preparation(pool).many((n, item, preparer) for n, item in enumerate(items))
        assert next(made)[0] == 0
        made.close()
    pool.check().result(60)  # behind all that was left
    tickets = [pool.submit(job(data)) for data in pictures[:SLOTS]]
    assert all(came_by_slot(ticket) for ticket in tickets)
    for ticket in tickets:
        pool.result(ticket)


def test_a_ticket_is_good_for_one_answer(pool: DecodePool, pictures: list[bytes]) -> None:
    ticket = pool.submit(job(pictures[0]))
    pool.result(ticket)
    with pytest.raises(ValueError, match="one answer"):
        pool.result(ticket)


def test_without_shared_memory_pixels_come_through_the_pipe(
    pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EFBIG, "File too large")  # as under a limit on the size of files

    monkeypatch.setattr(os, "ftruncate", refused)
    with DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS) as pool:
        ticket = pool.submit(job(pictures[0]))
        assert not came_by_slot(ticket)
        assert np.array_equal(frames(pool, ticket)[0], here(pictures[0])[0])


def test_the_memory_goes_with_the_pool(pictures: list[bytes]) -> None:
    before = mapped_arenas()
    pool = DecodePool(partial(equip_drafter, INPUTS, LIMITS), LIMITS)
    pool.result(pool.submit(job(pictures[0])))
    (ours,) = mapped_arenas() - before
    pool.close()
    del pool
    until = time.monotonic() + 30
    while ours in mapped_arenas() and time.monotonic() < until:  # a thread of the pool's may end a moment later
        gc.collect()
        time.sleep(0.05)
    assert ours not in mapped_arenas()


def mapped_arenas() -> set[str]:
    """The inodes of those that this process has; another test's may go at any moment."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if "/memfd:lakevec-pixels" in line}
