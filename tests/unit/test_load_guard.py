"""An item that kills its preparer twice is a reject; its neighbours are prepared, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import to_work_table
from pipeline.stages.load_guard import guarded
from pipeline.stages.meter import Meter
from pipeline.stages.prepare import windows
from pipeline.stages.window_limits import WindowLimits
from pipeline.types import Prepared, WorkItem
from pipeline.window import unpack_window
from tests.fixtures.meter_stub import at_once
from tests.fixtures.prepared import image_item

KEYS = [f"i{number}" for number in range(9)]
PICTURE = image_item(32, 32)


class Killed(BaseException):
    """The preparer's process is gone."""


class Life:
    """One preparer: what its process tells the meter. After it is killed it tells nothing more."""

    def __init__(self, meter: Any) -> None:
        self.begin, self.begin_alone = meter.begin, meter.begin_alone
        self.end = SimpleNamespace(remote=lambda *told: None if self.is_dead else meter.end.remote(*told))
        self.is_dead = False

    def kill(self) -> NoReturn:
        self.is_dead = True
        raise Killed


def block(meter: Any, deadly: str | None) -> tuple[list[tuple[str, object]], int]:
    """What comes of a block, whichever item kills the worker that makes it, and how many workers died."""
    for deaths in range(20):
        life = Life(meter)

        def make(items: Iterable[str], life: Life = life) -> Iterator[tuple[str, str | RejectError]]:
            for item in items:
                if item == deadly:
                    life.kill()
                yield item, item.upper()

        try:
            return list(guarded(life, KEYS, KEYS, make)), deaths
        except Killed:
            continue
    raise AssertionError("the culprit is never found")


def load(items: Iterable[str]) -> Iterator[tuple[str, str | RejectError]]:
    for item in items:
        yield item, item.upper()


def test_a_clean_block_is_loaded_at_once_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = at_once(Meter(), monkeypatch)
    for _ in range(2):
        assert block(meter, None) == ([(key, key.upper()) for key in KEYS], 0)


@pytest.mark.parametrize("deadly", [KEYS[0], KEYS[4], KEYS[-1]])
def test_three_deaths_and_no_neighbour(deadly: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done, deaths = block(at_once(Meter(), monkeypatch), deadly)
    assert deaths == 3
    assert [item for item, _ in done] == KEYS
    for item, got in done:
        if item == deadly:
            assert isinstance(got, RejectError)
            assert got.code is RejectCode.WORKER_CRASHED
        else:
            assert got == item.upper()


def test_a_loader_that_raises_leaves_no_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    handle = at_once(meter, monkeypatch)

    def broken(items: Iterable[str]) -> Iterator[tuple[str, str | RejectError]]:
        yield next(iter(items)), "x"
        raise OSError("a defect")

    with pytest.raises(OSError, match="defect"):
        list(guarded(handle, KEYS, KEYS, broken))
    assert not meter.begin("prepare", KEYS)


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_worker_taken_away_while_a_made_item_waits_makes_no_culprit(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ray's backpressure holds a preparer, for minutes where the encoders are slow."""
    handle = at_once(Meter(), monkeypatch)
    for _ in range(5):
        life = Life(handle)
        stream = guarded(life, KEYS, KEYS, load)
        for _, got in zip(range(at + 1), stream, strict=False):
            assert not isinstance(got[1], RejectError)
        life.is_dead = True
        stream.close()
    assert block(handle, None) == ([(key, key.upper()) for key in KEYS], 0)


def test_a_block_whose_last_item_waits_is_through(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    life = Life(at_once(meter, monkeypatch))
    stream = guarded(life, KEYS, KEYS, load)
    for _ in KEYS[:-1]:
        next(stream)
    assert meter.begin("prepare", [KEYS[-1]]), "not made yet"
    next(stream)
    life.is_dead = True
    assert not meter.begin("prepare", KEYS)


@pytest.mark.parametrize("max_bytes", [1, 10**9], ids=["a window each", "one window"])
def test_nothing_in_a_window_that_waits_is_under_way(max_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guard and windows together, alone and in company: at each window handed on only what is not made yet counts."""
    meter = Meter()
    items = [WorkItem(key, ("t",), (), None, None, None, "f", "m", n, 0) for n, key in enumerate(KEYS)]

    def make(held: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
        for item in held:
            yield item, replace(PICTURE, id=item.id)

    handle = at_once(meter, monkeypatch)
    handle.begin.remote("prepare", KEYS)  # by a worker that died: so each goes alone
    stream = windows(to_work_table(items), guarded(handle, KEYS, items, make), WindowLimits(max_bytes, 10**9))
    done: list[str] = []
    for window in stream:
        done += unpack_window(window).facts.column("id").to_pylist()
        held = meter._under_way["prepare"]._held
        assert held.isdisjoint(done), "what waits is made"
        assert held == set(KEYS) - set(done)
    assert done == KEYS
