"""A pass ends with what its workers said in the driver's log, whatever ended it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayActorError, RaySystemError

from pipeline.errors import OwnershipError
from pipeline.stages.meter import Meter
from pipeline.stages.passes import Passes
from pipeline.stop import StopRequest
from tests.fixtures.said import said_at

LAST_WORDS = (logging.WARNING, "the weights do not fit")


class Stream:
    """Receipts of a dataset in which a worker speaks at last, and which then ends with `end`."""

    def __init__(self, meter: Meter, end: BaseException | None) -> None:
        self._meter = meter
        self._end = end
        self._polls = 0

    def poll(self, timeout_s: float) -> pa.Table | None:
        self._polls += 1
        if self._polls == 1:
            return pa.table({})
        self._meter.say(LAST_WORDS)
        if self._end is not None:
            raise self._end
        return None


def passes_of(meter: Meter, monkeypatch: pytest.MonkeyPatch, *, alive: bool = True) -> Passes:
    """Passes whose meter answers without Ray, or not at all."""

    def get(reading: Any, timeout: float) -> Any:
        if not alive:
            raise RaySystemError("gone")
        return reading

    monkeypatch.setattr(ray, "get", get)
    reads = SimpleNamespace(read=SimpleNamespace(remote=meter.read))
    return Passes(
        work=SimpleNamespace(chain=SimpleNamespace(meter=reads)),  # type: ignore[arg-type]
        claim=SimpleNamespace(lost=SimpleNamespace(is_set=lambda: False)),  # type: ignore[arg-type]
        committer=SimpleNamespace(take=lambda receipts: None),  # type: ignore[arg-type]
        stop=StopRequest(),
        block_items=1,
        show=lambda reading: None,
    )


@pytest.mark.parametrize("end", [None, RayActorError(), OwnershipError("another run has taken over")])
def test_last_words_are_written_however_a_pass_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, end: BaseException | None
) -> None:
    meter = Meter()
    passes = passes_of(meter, monkeypatch)
    with caplog.at_level(logging.INFO, "lakevec"):
        if end is None:
            assert passes._pull(Stream(meter, end))  # type: ignore[arg-type]
        else:
            with pytest.raises(type(end)):
                passes._pull(Stream(meter, end))  # type: ignore[arg-type]
    assert said_at(caplog) == [LAST_WORDS]


def test_a_meter_that_died_does_not_hide_what_ended_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    passes = passes_of(meter, monkeypatch, alive=False)
    with pytest.raises(RayActorError):
        passes._pull(Stream(meter, RayActorError()))  # type: ignore[arg-type]
