"""What workers have under way, kept where their death does not reach: so it is known what died with them.

In: keys of items that a worker begins with and ends. Out: whether a worker died while it held one, and whether an item
has killed enough of them to be left alone. An item is begun in company first. If its worker dies, all of that company
are suspects and are begun alone, one after the other; who dies alone is found. Nothing is refused but a run whose
workers die of too many items: there it is not the items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pipeline.errors import LakevecError, RejectCode

__all__ = ["ENCODE", "PREPARE", "UnderWay", "Verdict"]

PREPARE, ENCODE = "prepare", "encode"
"""The stages that have items under way."""

DEATHS_ALONE = 2
"""Workers also die of other things, of a node that is taken away or of memory that a neighbour took: one death of a
worker that held nothing else may be chance. Where the device itself names the item, one is enough."""

MIN_CULPRITS = 16
CULPRIT_FRACTION = 0.1
"""Items of a stage that may kill workers, beside a tenth of those that came through. Each costs the start of a worker
or two, so a machine that kills every item must end the run instead of going through the lake."""

Verdict = tuple[RejectCode, str]
"""Why an item is rejected unseen: code and detail."""


class UnderWay:
    """The items of one stage that are under way. Remembers none that ended."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._alone: Counter[str] = Counter()
        self._causes: dict[str, str] = {}
        self._named: set[str] = set()
        self._culprits = 0

    def begin(self, keys: Iterable[str]) -> bool:
        """A worker is about to begin with all of `keys`, unless this returns True: one that held one of them died."""
        wanted = set(keys)
        suspected = not wanted.isdisjoint(self._held)
        self._held |= wanted
        return suspected

    def begin_alone(self, key: str, *, done: int) -> Verdict | None:
        """A worker is about to begin with `key` and holds nothing else, unless this returns why it must not.

        `done`: items that came through the stage. Raises LakevecError if more kill workers than a few bad ones.
        """
        cause = self._causes.get(key)
        if cause is None and self._alone[key] < DEATHS_ALONE:
            self._held.add(key)
            self._alone[key] += 1
            return None
        if key not in self._named:
            self._named.add(key)
            self._culprits += 1
        if self._culprits > MIN_CULPRITS + CULPRIT_FRACTION * done:
            raise LakevecError(
                f"workers died of {self._culprits} items while {done} came through, the last time of: "
                f"{cause or 'no known reason'}; look at the machine's health, not at the items"
            )
        if cause is not None:
            return RejectCode.DEVICE_ERROR, cause
        return RejectCode.WORKER_CRASHED, f"{DEATHS_ALONE} workers died while they held this item alone"

    def end(self, keys: Iterable[str]) -> None:
        """A worker is through with `keys`, well or not, and lives."""
        for key in keys:
            self._held.discard(key)
            del self._alone[key]
            self._causes.pop(key, None)
            self._named.discard(key)

    def blame(self, key: str, cause: str) -> None:
        """A worker is about to die of `key`, which it holds alone."""
        self._causes[key] = cause
