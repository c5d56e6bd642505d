"""A window whose worker dies or whose model raises comes through but for the culprit, which has a code of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError, RejectCode
from pipeline.models.encoder import Encoded
from pipeline.models.faults import noticing_loss
from pipeline.stages.encode import encode_distinct
from pipeline.stages.encode_guard import EncodeGuard, Gate
from pipeline.stages.meter import Meter
from pipeline.types import Prepared
from tests.fixtures.meter_stub import at_once
from tests.fixtures.prepared import text_item

ITEMS = tuple(text_item(3, seed=seed) for seed in range(32))
POISON = ITEMS[7].id


class Died(BaseException):
    """The worker's process is gone: nothing catches it, as nothing catches `os._exit`."""


class Poisoned:
    """A worker's encoder that fails on some items as torch does; a device that was lost once answers nothing more."""

    hidden_dim, device, dtype = 2, "cuda:0", "float32"

    def __init__(self, failures: dict[str, Callable[[], Exception]]) -> None:
        self._failures = failures
        self._lost: Exception | None = None
        self.calls: list[int] = []

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        self.calls.append(len(items))
        with noticing_loss(torch.device("cpu")):
            if self._lost is not None:
                raise self._lost
            for item in items:
                if item.id in self._failures:
                    error = self._failures[item.id]()
                    self._lost = error if isinstance(error, torch.AcceleratorError) else None
                    raise error
        return Encoded(np.array([[item.n_tokens, item.input_ids[0]] for item in items], np.float32), forwards=1)


def leave(status: int) -> None:
    raise Died(status)


def run(meter: Any, failures: dict[str, Callable[[], Exception]]) -> tuple[Encoded, list[Poisoned]]:
    """What comes of `ITEMS`, and the workers that it took: a new one for each that died, as Ray starts it."""
    workers: list[Poisoned] = []
    while True:
        workers.append(Poisoned(failures))
        assert len(workers) < 20
        try:
            return encode_distinct(workers[-1], ITEMS, dedupe=True, guard=EncodeGuard(meter, leave)), workers
        except Died:
            continue


def assert_good_but(encoded: Encoded, bad: set[int]) -> None:
    good = [index for index in range(len(ITEMS)) if index not in bad]
    clean = Poisoned({}).encode(ITEMS).vectors
    np.testing.assert_array_equal(encoded.vectors[good], clean[good])
    assert {index for index, _, _ in encoded.failed} == bad


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_a_sticky_error_costs_two_workers_and_its_item(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    encoded, workers = run(at_once(meter, monkeypatch), {POISON: lambda: torch.AcceleratorError(text)})
    assert_good_but(encoded, {7})
    assert encoded.failed[0][1] is RejectCode.DEVICE_ERROR
    assert text.split("\n")[0] in encoded.failed[0][2]
    assert len(workers) == 3
    # Together; alone up to the culprit; all but the culprit alone.
    assert [worker.calls for worker in workers] == [[32], [1] * 8, [1] * 31]
    assert RejectCode.DEVICE_ERROR.meaning.retryable


def test_ten_poisonous_items_in_one_window(monkeypatch: pytest.MonkeyPatch) -> None:
    poison = {
        item.id: lambda: torch.AcceleratorError("CUDA error: device-side assert triggered") for item in ITEMS[:30:3]
    }
    encoded, workers = run(at_once(Meter(), monkeypatch), poison)
    assert_good_but(encoded, set(range(0, 30, 3)))
    assert len(workers) == 12


@pytest.mark.parametrize("error", [RuntimeError("shapes [3] and [4]"), ValueError("what is this?"), MemoryError()])
def test_an_item_that_the_model_raises_on_costs_no_worker(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, workers = run(at_once(Meter(), monkeypatch), {POISON: lambda: error})
    assert_good_but(encoded, {7})
    assert encoded.failed == ((7, RejectCode.ENCODE_FAILED, f"{type(error).__name__}: {error}".strip()),)
    assert len(workers) == 1


def test_a_model_that_raises_on_everything_is_no_item_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {item.id: lambda: RuntimeError("no kernel image is available") for item in ITEMS}
    with pytest.raises(RuntimeError, match="no kernel image"):
        run(at_once(Meter(), monkeypatch), broken)


def test_what_a_user_must_mend_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="mend it"):
        run(at_once(Meter(), monkeypatch), {POISON: lambda: ConfigError("mend it")})


def test_nothing_else_is_under_way_while_a_suspect_is_tried() -> None:
    gate, inside, overlaps = Gate(), 0, 0
    lock = threading.Lock()

    def call(alone: bool) -> None:
        nonlocal inside, overlaps
        with gate.alone() if alone else gate.together():
            with lock:
                inside += 100 if alone else 1
            time.sleep(0.001)
            with lock:
                overlaps += inside > 100
                inside -= 100 if alone else 1

    threads = [threading.Thread(target=call, args=(number % 3 == 0,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert overlaps == 0
