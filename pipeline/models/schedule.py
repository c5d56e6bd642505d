"""The schedule of a window: which items go through the model next, and what later ones will show again. No torch.

In: what each item costs, which blocks it shows, a budget. Out: micro-batches, one after another. A micro-batch that did
not fit goes back, and everything still to do is packed anew under the smaller budget.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from pipeline.packing import Budget, Cost, pack

__all__ = ["Schedule"]


class Schedule:
    """The micro-batches of a window that are still to do."""

    def __init__(
        self, costs: Sequence[Cost], keys: Sequence[frozenset[int]], budget: Budget, *, single: bool = False
    ) -> None:
        """`keys[i]`: the keys of the blocks that item i shows. `single`: every item alone."""
        self._costs = costs
        self._keys = keys
        self._single = single
        self._plan(range(len(costs)), budget)

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def upcoming(self) -> tuple[int, ...] | None:
        """Items of the micro-batch that `take` gives next."""
        return self._pending[0] if self._pending else None

    def take(self) -> tuple[int, ...]:
        """The next micro-batch: indices of items."""
        indices = self._pending.popleft()
        self._uses.subtract(self._shown(indices))
        return indices

    def costs_of(self, indices: Iterable[int]) -> list[Cost]:
        """What `indices` cost."""
        return [self._costs[index] for index in indices]

    def wanted_later(self, indices: Iterable[int]) -> set[int]:
        """Keys of blocks that `indices` show and a micro-batch still to come shows again."""
        return {key for key in self._shown(indices) if self._uses[key] > 0}

    def again(self, indices: Iterable[int], budget: Budget) -> None:
        """Put `indices` back and pack all that is still to do under `budget`."""
        self._plan([*indices, *(index for batch in self._pending for index in batch)], budget)

    def _plan(self, todo: Sequence[int], budget: Budget) -> None:
        batches = pack(self.costs_of(todo), budget, single=self._single)
        self._pending = deque(tuple(todo[place] for place in batch) for batch in batches)
        self._uses = Counter(key for batch in self._pending for key in self._shown(batch))

    def _shown(self, indices: Iterable[int]) -> set[int]:
        return {key for index in indices for key in self._keys[index]}
