"""The sign of life of a run: a small object renewed by a thread, and how another run watches it.

In: a store and a run id. Out: a renewed object; a verdict on a foreign one. Nothing is decided by wall clocks:
the watcher measures silence on its own monotonic clock.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from pipeline.index.log import LOG_FOLDER
from pipeline.storage import Store

__all__ = ["Beat", "Heartbeat", "Watch", "heartbeat_path", "now_iso", "read_heartbeat"]

_log = logging.getLogger(__name__)


def heartbeat_path(run_id: str) -> str:
    """The name of the run's heartbeat, relative to the output."""
    return f"{LOG_FOLDER}/heartbeat-{run_id}.json"


def now_iso() -> str:
    """The time for people to read, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_heartbeat(store: Store, run_id: str) -> bytes:
    """The heartbeat as it is now; empty if there is none."""
    try:
        return store.read(heartbeat_path(run_id))
    except FileNotFoundError:
        return b""


class Beat(Enum):
    """What a watcher knows."""

    RENEWED = "renewed"
    QUIET = "quiet"
    WAITING = "waiting"


@dataclass(slots=True)
class Watch:
    """Watches one sign of life. `first_seen_s` is read after the first look, so silence is never overstated."""

    first: object
    first_seen_s: float
    quiet_s: float

    def look(self, sign: object, asked_at_s: float) -> Beat:
        """The verdict on `sign`, which was asked for at `asked_at_s` on the clock of `first_seen_s`."""
        if sign != self.first:
            return Beat.RENEWED
        return Beat.QUIET if asked_at_s - self.first_seen_s >= self.quiet_s else Beat.WAITING


class Heartbeat:
    """A daemon thread that renews the heartbeat of `run_id` every `renew_s` and then calls `after_beat`.

    A failure to renew is logged and tried again: the log, not the heartbeat, keeps a stale owner out.
    """

    def __init__(self, store: Store, run_id: str, renew_s: float, after_beat: Callable[[], None]) -> None:
        self._store = store
        self._run_id = run_id
        self._renew_s = renew_s
        self._after_beat = after_beat
        self._count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"heartbeat-{run_id}", daemon=True)

    def start(self) -> None:
        """Write the first beat and start the thread."""
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """Renew once."""
        self._count += 1
        sign = {"run_id": self._run_id, "beat": self._count, "at": now_iso()}
        self._store.put(heartbeat_path(self._run_id), json.dumps(sign).encode())

    def stop(self) -> None:
        """End the thread and remove the heartbeat; a heartbeat that cannot be removed is only litter."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            self._store.delete(heartbeat_path(self._run_id))
        except Exception as error:  # noqa: BLE001 - botocore's errors are no OSError
            _log.warning("cannot remove the heartbeat of run %s: %s", self._run_id, error)

    def _run(self) -> None:
        while not self._stop.wait(self._renew_s):
            try:
                self.beat()
                self._after_beat()
            except Exception as error:  # noqa: BLE001 - whatever failed, the next beat must come
                _log.warning("heartbeat of run %s not renewed: %s", self._run_id, error)
