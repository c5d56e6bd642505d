"""The committer: turns receipts into progress commits, by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind, FileEntry
from pipeline.index.parts import entry_of
from pipeline.tally import Tally

__all__ = ["Committer"]


class Committer:
    """Collects receipts (`stages.write.RECEIPT`) and commits their parts at least every `interval_s`.

    What is not committed is done again after a crash; what is, never. `committed` lists every part of this run.
    """

    def __init__(
        self,
        claim: Claim,
        tally: Tally,
        info: dict[str, Any],
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claim = claim
        self._tally = tally
        self._info = info
        self._interval_s = interval_s
        self._clock = clock
        self._last = clock()
        self._waiting: list[FileEntry] = []
        self.committed: list[FileEntry] = []
        self.committed_items = 0
        self.seconds = 0.0

    def take(self, receipts: pa.Table) -> None:
        """Add `receipts`, and commit if it is time."""
        for receipt in receipts.to_pylist():
            self._tally.add(receipt)
            self._waiting += [entry_of(part) for part in receipt["parts"]]
        if self._clock() - self._last >= self._interval_s:
            self.flush()

    def flush(self) -> None:
        """Commit what waits. Raises OwnershipError if another run has taken over."""
        self._last = self._clock()
        if not self._waiting:
            return
        started = time.monotonic()
        self._claim.commit(CommitKind.PROGRESS, added=self._waiting, info=self._info)
        self.seconds += time.monotonic() - started
        self.committed += self._waiting
        self.committed_items = self._tally.items
        self._waiting = []
