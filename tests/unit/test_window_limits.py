"""Windows leave their worker between slow items, past Ray's own buffer, and are whole where nothing is slow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.data._internal.output_buffer import BlockOutputBuffer, OutputBlockSizeOption

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import to_work_table
from pipeline.rerank.window import unpack_pairs
from pipeline.stages.prepare import windows
from pipeline.stages.prepare_pairs import PairSource, pair_windows
from pipeline.stages.window_limits import WINDOW_AGE_S, WindowLimits
from pipeline.types import LoadedItem, Prepared, WorkItem
from pipeline.window import unpack_window
from tests.fixtures.prepared import image_item, text_item
from tests.unit.test_prepare_pairs import InProcess, Lake, Preparation, picture, preparer, tile_of

PICTURE, TEXT = image_item(64, 64), text_item(30)
LIMITS = WindowLimits(1 << 20, 1 << 20)
HANGS_S = 242.0
"""A clip that hangs under the default `decode.timeout_s`, and once more alone."""


@dataclass
class Clock:
    """Time that passes where a test says so."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass(frozen=True)
class Slow:
    """An item, what becomes of it, and how long it is waited for."""

    got: Prepared | RejectError
    takes_s: float = 0.0


HANGING = Slow(RejectError(RejectCode.DECODE_TIMEOUT, "twice not done within 120 s"), HANGS_S)


def work(n: int) -> list[WorkItem]:
    return [WorkItem(f"i{k}", ("t",), (), None, None, None, f"f{k}", "m", k, 0) for k in range(n)]


def made(
    clock: Clock, items: Sequence[WorkItem], slow: Sequence[Slow]
) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
    for item, each in zip(items, slow, strict=True):
        clock.now_s += each.takes_s
        yield item, each.got if isinstance(each.got, RejectError) else replace(each.got, id=item.id)


def sizes(slow: Sequence[Slow], limits: WindowLimits = LIMITS, held_s: float = 0.0) -> list[int]:
    """Items of each window, if whoever takes them holds the worker for `held_s` at each."""
    clock, items, found = Clock(), work(len(slow)), []
    for window in windows(to_work_table(items), made(clock, items, slow), limits, clock):
        found.append(unpack_window(window).facts.num_rows)
        clock.now_s += held_s
    return found


def through_ray(clock: Clock, stream: Iterator[pa.Table], limits: WindowLimits) -> Iterator[tuple[float, pa.Table]]:
    """What a Ray task hands on of `stream`, and when: `ray.data` runs its output through this buffer."""
    buffer = BlockOutputBuffer(OutputBlockSizeOption.of(target_max_block_size=limits.block_bytes))
    for table in stream:
        buffer.add_batch(table)
        for block in buffer.iter_ready_blocks():
            yield clock.now_s, block
    buffer.finalize()
    for block in buffer.iter_ready_blocks():
        yield clock.now_s, block


def test_what_is_made_goes_out_before_the_next_slow_item_is_waited_for() -> None:
    clock, items = Clock(), work(10)
    slow = [Slow(TEXT), Slow(PICTURE), *[HANGING] * 8]
    left = through_ray(clock, windows(to_work_table(items), made(clock, items, slow), LIMITS, clock), LIMITS)
    found = [(at - 1000, unpack_window(block).facts.num_rows) for at, block in left]
    assert found == [(HANGS_S, 3), *((n * HANGS_S, 1) for n in range(2, 9))]


def test_windows_of_quick_items_are_not_cut() -> None:
    assert sizes([Slow(PICTURE, 0.01)] * 20) == [20]
    assert sizes([Slow(PICTURE, 0.01)] * 20, WindowLimits(4 * 64 * 64 * 3, 1 << 20)) == [4] * 5


def test_waiting_for_those_who_take_windows_makes_none_late() -> None:
    four = WindowLimits(4 * 64 * 64 * 3, 1 << 20)
    assert sizes([Slow(PICTURE, 1)] * 20, four, held_s=10_000) == [4] * 5
    by_tokens = WindowLimits(1 << 20, 2 * len(TEXT.input_ids))
    assert sizes([Slow(TEXT, 1)] * 20, by_tokens, held_s=10_000) == [2] * 10


def test_a_late_window_weighs_a_block_and_gives_its_items_back_as_they_are() -> None:
    [window] = windows(to_work_table(work(1)), made(clock := Clock(), work(1), [Slow(PICTURE, 100)]), LIMITS, clock)
    assert window.nbytes > LIMITS.block_bytes
    got = unpack_window(window).prepared[0].visuals[0].frames
    assert (got == PICTURE.visuals[0].frames).all()


TIMES_S = st.sampled_from([0.0, 1.0, 31.0, 59.0, 61.0, HANGS_S])
ITEMS = st.lists(st.builds(Slow, st.sampled_from([PICTURE, TEXT, HANGING.got]), TIMES_S), min_size=1, max_size=30)


@given(slow=ITEMS, max_tokens=st.sampled_from([1, 100, 1 << 20]), max_bytes=st.sampled_from([1, 60_000, 1 << 20]))
def test_nothing_that_is_made_waits_longer_than_its_age_and_one_item(
    slow: list[Slow], max_tokens: int, max_bytes: int
) -> None:
    """Whatever closes windows: those closed by tokens lie in Ray's buffer, and grow old there too."""
    clock, items, limits = Clock(), work(len(slow)), WindowLimits(max_bytes, max_tokens)
    stream = windows(to_work_table(items), made(clock, items, slow), limits, clock)
    ids: list[str] = []
    last_s = clock.now_s
    for at, block in through_ray(clock, stream, limits):
        assert at - last_s <= WINDOW_AGE_S + HANGS_S
        last_s = at
        for place in range(block.num_rows):
            ids += unpack_window(block.slice(place, 1)).facts.column("id").to_pylist()
    assert ids == [item.id for item in items]


@pytest.mark.parametrize("takes_s", [0.0, 40.0, 100.0])
def test_pairs_that_are_made_do_not_wait_for_slow_ones(takes_s: float) -> None:
    clock, lake = Clock(), Lake()

    def slowly(items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        for item, got in lake.load_many(items):
            clock.now_s += takes_s if item.id.startswith("d") else 0
            yield item, got

    pairs = [(0, n) for n in range(12)]
    source = PairSource(tile_of(pairs), slowly, preparer(), Preparation(InProcess({})))
    left = [
        unpack_pairs(block.slice(place, 1)).facts.column("doc_id").to_pylist()
        for _, block in through_ray(clock, pair_windows(source, LIMITS, clock), LIMITS)
        for place in range(block.num_rows)
    ]
    assert [name for window in left for name in window] == [f"d{n}" for n in range(12)]
    assert (len(left) > 1) == (takes_s > 0)


@pytest.mark.parametrize("with_pixels", [False, True])
def test_a_document_that_hangs_is_waited_for_once_by_all_its_queries(with_pixels: bool) -> None:
    clock, contents = Clock(), {f"d{n}": picture(f"d{n}", n) for n in range(1, 5)} if with_pixels else {}
    lake = Lake({**contents, "d0": RejectError(RejectCode.DECODE_TIMEOUT, "twice")})

    def slowly(items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        for item, got in lake.load_many(items):
            clock.now_s += HANGS_S if item.id == "d0" else 0.05
            yield item, got

    pairs = [(query, document) for query in range(100) for document in range(5)]
    source = PairSource(tile_of(pairs), slowly, preparer(), Preparation(InProcess({})))
    limits = WindowLimits(2 * 64 * 64 * 3 if with_pixels else 1 << 20, 1 << 20)
    found = [unpack_pairs(window).facts for window in pair_windows(source, limits, clock)]
    codes = [code for facts in found for code in facts.column("code").to_pylist()]
    assert codes == ["DECODE_TIMEOUT", None, None, None, None] * 100
    assert lake.read.count("d0") == 1
    assert clock.now_s - 1000 < 2 * HANGS_S
