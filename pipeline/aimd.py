"""How many requests a store bears: more by one a round while it answers, fewer by a share when it throttles (AIMD).

In: what became of each request. Out: how many may be under way. Nothing is refused here; no clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Aimd"]

_KEPT = 0.7
"""Of the requests under way, after a throttled one: what the AWS clients' adaptive mode keeps."""


@dataclass(slots=True)
class Aimd:
    """The limit on requests under way, between 1 and `ceiling`, where it starts.

    Requests that were under way together when the store throttled count as one sign: each is told its `round` when it
    begins, and a throttled one of an earlier round lowers nothing.
    """

    ceiling: int
    round: int = 0
    _limit: float = field(init=False)

    def __post_init__(self) -> None:
        self._limit = float(self.ceiling)

    @property
    def slots(self) -> int:
        """Requests that may be under way."""
        return int(self._limit)

    def answered(self) -> None:
        """A request was answered, with good or bad news of its object."""
        self._limit = min(float(self.ceiling), self._limit + 1 / self._limit)

    def throttled(self, begun_in: int) -> None:
        """A request that began in round `begun_in` was throttled."""
        if begun_in == self.round:
            self._limit = max(1.0, self._limit * _KEPT)
            self.round += 1
