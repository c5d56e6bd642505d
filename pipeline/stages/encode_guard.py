"""The guard of an encoder: no item that kills its worker is begun for ever, and none that shares its call is lost.

In: the items of a call, by key, and how to do them together and one alone. Out: an `Encoded` for all of them. A worker
that the device is lost to says so and ends itself, for Ray to replace it and try again: then the items go one by one,
with nothing else under way in the process, and one that the device fails on is a reject. Items that make the model
raise are found in the same way, without a death.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.errors import DeviceLostError, LakevecError, RejectCode, scrub
from pipeline.models.encoder import Encoded
from pipeline.stages.meter import ask
from pipeline.stages.under_way import ENCODE, Verdict

__all__ = ["EncodeGuard", "Gate"]

DEVICE_LOST_STATUS = 70
"""EX_SOFTWARE of sysexits.h: shows in Ray's log that the worker ended itself."""

_log = logging.getLogger("lakevec")


class Gate:
    """Calls that may overlap, and calls that must not overlap with any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Inside with others that came this way."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside with nobody else."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._waiting_alone -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


class EncodeGuard:
    """Stands before the model of one worker; its threads share it. `leave` ends the process."""

    def __init__(self, meter: Any, leave: Callable[[int], Any] = os._exit) -> None:  # noqa: ANN401 - an actor handle
        self._meter = meter
        self._leave = leave
        self._gate = Gate()

    def run(
        self,
        keys: Sequence[str],
        together: Callable[[], Encoded],
        alone: Callable[[int], Encoded],
        width: int,
    ) -> Encoded:
        """What `together()` gives for the items `keys`, or `alone(i)` for each i where a worker died of one of them.

        `width`: length of a vector. Raises what `together` raised if no item comes through alone either, and any
        LakevecError but DeviceLostError as it is.
        """
        if not keys:
            return together()
        trouble: Exception | None = None
        with self._gate.together():
            if not ask(self._meter.begin, False, ENCODE, list(keys)):
                try:
                    encoded = together()
                    self._end(keys)
                    return encoded
                except DeviceLostError as error:
                    self._die(error)
                except LakevecError:
                    self._end(keys)
                    raise
                except Exception as error:  # noqa: BLE001 - whose fault it is will show
                    trouble = error
        with self._gate.alone():
            parts = [self._one(key, alone, index, width) for index, key in enumerate(keys)]
            self._end(keys)
        joined = Encoded.joined(parts, width)
        if trouble is not None and len(joined.failed) == len(keys) > 1:
            raise trouble
        return joined

    def _one(self, key: str, alone: Callable[[int], Encoded], index: int, width: int) -> Encoded:
        verdict: Verdict | None = ask(self._meter.begin_alone, None, ENCODE, key)
        if verdict is not None:
            return _failure(width, *verdict)
        try:
            encoded = alone(index)
        except DeviceLostError as error:
            ask(self._meter.blame, None, ENCODE, key, scrub(str(error)))
            self._die(error)
            raise
        except LakevecError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad item never touches another
            encoded = _failure(width, RejectCode.ENCODE_FAILED, f"{type(error).__name__}: {error}")
        self._end([key])
        return encoded

    def _end(self, keys: Sequence[str]) -> None:
        self._meter.end.remote(ENCODE, list(keys))

    def _die(self, error: DeviceLostError) -> None:
        # Ray restarts an actor whose process ends, not one that exits by `exit_actor`.
        _log.warning("%s: this worker ends and another takes its place", scrub(str(error)))
        ask(self._meter.read, None)  # the message has arrived once this is answered
        self._leave(DEVICE_LOST_STATUS)


def _failure(width: int, code: RejectCode, detail: str) -> Encoded:
    return Encoded(np.full((1, width), np.nan, np.float32), failed=((0, code, scrub(detail)),))
