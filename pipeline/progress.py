"""Progress of a run: a live view on a terminal, elsewhere one line every 30 seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

__all__ = ["Progress", "Status", "status_line"]

LINE_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class Status:
    """Where a run stands. `total` items are to do; stages have handed on `prepared`, `encoded`, `written`."""

    total: int
    prepared: int = 0
    encoded: int = 0
    written: int = 0
    committed: int = 0
    rejects: int = 0
    tokens: int = 0
    phase: str = "encode"

    @property
    def queues(self) -> dict[str, int]:
        """Items waiting before or inside each stage. Re-executed tasks can count twice, hence the floor."""
        return {
            "prepare": max(0, self.total - self.prepared),
            "encode": max(0, self.prepared - self.encoded),
            "write": max(0, self.encoded - self.written),
            "commit": max(0, self.written - self.committed),
        }


def status_line(status: Status, elapsed_s: float) -> str:
    """One line: items, items/s, tokens/s, rejects, time to go, and the queue of each stage."""
    rate = status.written / elapsed_s if elapsed_s > 0 else 0.0
    tokens = status.tokens / elapsed_s if elapsed_s > 0 else 0.0
    waiting = " ".join(f"{stage}={items}" for stage, items in status.queues.items())
    return (
        f"{status.phase}: {status.written}/{status.total} items, {rate:.1f} items/s, {tokens:.0f} tokens/s, "
        f"{status.rejects} rejects, ETA {_eta(status, rate)}, queue {waiting}"
    )


def _eta(status: Status, rate: float) -> str:
    left = max(0, status.total - status.written)
    if rate <= 0:
        return "unknown" if left else "now"
    seconds = int(left / rate)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"


class Progress:
    """Shows a `Status` as often as fits where the output goes. A context manager.

    On a terminal `update` redraws a live table; elsewhere it prints `status_line` at most every 30 s.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._started = self._printed = clock()
        self._live: Live | None = None
        if self._stream.isatty():
            self._live = Live(console=Console(file=self._stream), refresh_per_second=4, transient=True)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, status: Status) -> None:
        """Show `status`, if it is time to."""
        now = self._clock()
        if self._live:
            self._live.update(_table(status, now - self._started))
        elif now - self._printed >= LINE_EVERY_S:
            self._printed = now
            print(status_line(status, now - self._started), file=self._stream, flush=True)


def _table(status: Status, elapsed_s: float) -> Table:
    rate = status.written / elapsed_s if elapsed_s > 0 else 0.0
    table = Table(box=None, pad_edge=False)
    for title in ("phase", "items", "items/s", "tokens/s", "rejects", "ETA", "queue"):
        table.add_column(title)
    table.add_row(
        status.phase,
        f"{status.written}/{status.total}",
        f"{rate:.1f}",
        f"{status.tokens / elapsed_s if elapsed_s > 0 else 0:.0f}",
        str(status.rejects),
        _eta(status, rate),
        "  ".join(f"{stage} {items}" for stage, items in status.queues.items()),
    )
    return table
