"""The schedule of a window: which items go through the model next, and what later ones will need again. No torch.

In: what each item and each prefix costs, which blocks it shows, a budget. Out: micro-batches, one after another: of
prefixes, or of items whose prefixes came before. A micro-batch that did not fit goes back, and everything still to do
is packed anew under the smaller budget.

Prefixes come in waves of at most the budget's tokens, each followed by the items that continue its prefixes: so what
those attend to is held for one wave at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence

from pipeline.packing import Budget, Cost, pack
from pipeline.prefixes import WHOLE

__all__ = ["Schedule"]


class Schedule:
    """The micro-batches of a window that are still to do. Units are items, and after them their prefixes."""

    def __init__(
        self,
        costs: Sequence[Cost],
        keys: Sequence[frozenset[int]],
        budget: Budget,
        *,
        of: Sequence[int] | None = None,
        single: bool = False,
    ) -> None:
        """`keys[u]`: the keys of the blocks that unit u shows. `single`: every item alone.

        `of[i]`: the prefix that item i continues, or `WHOLE`; prefix p is unit len(of) + p. None: all units are items.
        """
        self._costs = costs
        self._keys = keys
        self._single = single
        self._of = tuple(of) if of is not None else (WHOLE,) * len(costs)
        self.budget = budget
        self._plan(range(len(costs)), budget)

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def upcoming(self) -> tuple[int, ...] | None:
        """Units of the micro-batch that `take` gives next."""
        return self._pending[0] if self._pending else None

    def take(self) -> tuple[int, ...]:
        """The next micro-batch: indices of items, or of prefixes."""
        indices = self._pending.popleft()
        self._count(indices, -1)
        return indices

    def is_prefix(self, unit: int) -> bool:
        """Whether `unit` is a prefix."""
        return unit >= len(self._of)

    def prefix_of(self, item: int) -> int:
        """The unit of the prefix that `item` continues, or `WHOLE`."""
        return WHOLE if self._of[item] == WHOLE else len(self._of) + self._of[item]

    def costs_of(self, indices: Iterable[int]) -> list[Cost]:
        """What `indices` cost."""
        return [self._costs[index] for index in indices]

    def wanted_later(self, indices: Iterable[int]) -> set[int]:
        """Keys of blocks that `indices` show and a micro-batch still to come shows again."""
        return {key for key in self._shown(indices) if self._uses[key] > 0}

    def continued_later(self, prefix: int) -> bool:
        """Whether an item still to come continues `prefix`."""
        return self._left[prefix] > 0

    def drop(self, prefix: int) -> list[int]:
        """Give up the items that continue `prefix`; returns them."""
        dropped = [item for batch in self._pending for item in batch if not self.is_prefix(item)]
        dropped = [item for item in dropped if self.prefix_of(item) == prefix]
        gone = set(dropped)
        self._set([tuple(unit for unit in batch if unit not in gone) for batch in self._pending])
        return dropped

    def again(self, indices: Iterable[int], budget: Budget) -> None:
        """Put `indices` back and pack all that is still to do under `budget`."""
        self._plan([*indices, *(index for batch in self._pending for index in batch)], budget)

    def _plan(self, todo: Sequence[int], budget: Budget) -> None:
        self.budget = budget
        items = [unit for unit in todo if not self.is_prefix(unit)]
        waves = self._waves([unit for unit in todo if self.is_prefix(unit)], budget.tokens)
        place = {prefix: number for number, wave in enumerate(waves) for prefix in wave}
        batches: list[tuple[int, ...]] = []
        for number, wave in enumerate(waves or [[]]):
            batches += self._packed(wave, budget)
            # What continues no prefix of a wave to come fills up the first one.
            batches += self._packed([item for item in items if place.get(self.prefix_of(item), 0) == number], budget)
        self._set(batches)

    def _packed(self, units: Sequence[int], budget: Budget) -> list[tuple[int, ...]]:
        batches = pack(self.costs_of(units), budget, single=self._single)
        named = [[units[index] for index in batch] for batch in batches]
        if self._single or all(self.is_prefix(unit) or self._of[unit] == WHOLE for unit in units):
            return [tuple(batch) for batch in named]
        return [tuple(sorted(batch, key=self._beside)) for batch in named]

    def _beside(self, item: int) -> tuple[bool, int]:
        """Sorts the continuations of one prefix together, and whole items last."""
        return self._of[item] == WHOLE, self._of[item]

    def _waves(self, prefixes: Sequence[int], max_tokens: int) -> list[list[int]]:
        waves: list[list[int]] = []
        tokens = 0
        for prefix in sorted(prefixes):
            if not waves or tokens + self._costs[prefix].tokens > max_tokens:
                waves.append([])
                tokens = 0
            waves[-1].append(prefix)
            tokens += self._costs[prefix].tokens
        return waves

    def _set(self, batches: Iterable[tuple[int, ...]]) -> None:
        self._pending = deque(batch for batch in batches if batch)
        self._uses: Counter[int] = Counter()
        self._left: Counter[int] = Counter()
        for batch in self._pending:
            self._count(batch, 1)

    def _count(self, batch: Collection[int], by: int) -> None:
        for key in self._shown(batch):
            self._uses[key] += by
        for unit in batch:
            if not self.is_prefix(unit):
                self._left[self.prefix_of(unit)] += by

    def _shown(self, indices: Iterable[int]) -> set[int]:
        return {key for index in indices for key in self._keys[index]}
