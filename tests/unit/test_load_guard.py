"""An item that kills its preparer twice is a reject; its neighbours are prepared, in their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.stages.load_guard import guarded
from pipeline.stages.meter import Meter
from tests.fixtures.meter_stub import at_once

KEYS = [f"i{number}" for number in range(9)]


class Killed(BaseException):
    """The preparer's process is gone."""


def block(meter: Any, deadly: str | None) -> tuple[list[tuple[str, object]], int]:
    """What comes of a block, whichever item kills the worker while it is prepared, and how many workers died."""
    lives: list[object] = []
    for deaths in range(20):
        # The generators of a dead process are never closed.
        stream = guarded(meter, KEYS, KEYS, load)
        lives.append(stream)
        done: list[tuple[str, object]] = []
        try:
            for item, got in stream:
                if item == deadly and not isinstance(got, RejectError):
                    raise Killed
                done.append((item, got))
        except Killed:
            continue
        return done, deaths
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
