"""Packing: which items share a forward. Whole items only, under a budget of tokens and of vision patches.

In: what each item costs and what one forward may hold. Out: micro-batches as lists of indices. Nothing is refused:
an item larger than the budget goes alone, and whether it fits is for the device to say.

The memory of a packed forward grows with its tokens (language model) and with its patches (vision tower), and the
two towers run one after the other: so each has its own bound, and their sum is never needed.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.budget import MERGE
from pipeline.types import Prepared

__all__ = ["PATCHES_PER_TOKEN", "Budget", "Cost", "cost_of", "pack"]

PATCHES_PER_TOKEN = MERGE**2
"""The vision tower merges squares of patches into one visual token."""

MORE_BATCHES = 16
"""Where the fewest batches do not hold all items, a sixteenth more are tried: few tries, and little room to spare."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What an item asks of a forward: tokens (visual ones included) and vision patches."""

    tokens: int
    patches: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What one forward may hold. Both at least 1."""

    tokens: int
    patches: int

    @classmethod
    def of_tokens(cls, tokens: int) -> Budget:
        """The budget of `tokens` tokens, all of which may be visual."""
        return cls(tokens, tokens * PATCHES_PER_TOKEN)

    def fill(self, costs: Sequence[Cost]) -> float:
        """Share of this budget that `costs` take together, by the tighter bound; above 1 if they pass it."""
        tokens, patches = sum(cost.tokens for cost in costs), sum(cost.patches for cost in costs)
        return max(tokens / self.tokens, patches / self.patches)

    def after_failure(self, costs: Sequence[Cost]) -> Budget:
        """The smaller budget that a forward of `costs`, which did not fit, teaches: half of what it held.

        Its patches say nothing if there were none.
        """
        tokens, patches = sum(cost.tokens for cost in costs), sum(cost.patches for cost in costs)
        return Budget(
            tokens=max(1, min(self.tokens, tokens // 2)),
            patches=max(1, min(self.patches, patches // 2)) if patches else self.patches,
        )


def cost_of(item: Prepared) -> Cost:
    """What `item` asks of a forward."""
    return Cost(item.n_tokens, item.n_visual_tokens * PATCHES_PER_TOKEN)


def pack(costs: Sequence[Cost], budget: Budget, *, single: bool = False) -> list[list[int]]:
    """Indices of `costs` in micro-batches, none of them empty, each within `budget` or of one item.

    The micro-batches are about equally full, for a small last one would leave the device idle; within one the
    longest item comes first, so that equal lengths are neighbours. `single`: every item alone. Deterministic.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index].tokens, -costs[index].patches, index))
    if single:
        return [[index] for index in order]
    fewest = max(
        -(-sum(cost.tokens for cost in costs) // budget.tokens),
        -(-sum(cost.patches for cost in costs) // budget.patches),
    )
    count = min(len(order), fewest)
    while (places := _spread([costs[index] for index in order], budget, count)) is None:
        count = min(len(order), count + 1 + count // MORE_BATCHES)
    batches: list[list[int]] = [[] for _ in range(count)]
    for index, place in zip(order, places, strict=True):
        batches[place].append(index)
    return [batch for batch in batches if batch]


def _spread(costs: Sequence[Cost], budget: Budget, count: int) -> list[int] | None:
    """The batch of each of `costs`, the emptiest that it fits into; None if `count` batches are too few."""
    loads = [(0.0, place, 0, 0) for place in range(count)]  # how full, which, its tokens, its patches
    places = []
    for cost in costs:
        fuller = []
        while loads:
            fill, place, tokens, patches = heapq.heappop(loads)
            after = (tokens + cost.tokens, patches + cost.patches)
            if fill == 0 or (after[0] <= budget.tokens and after[1] <= budget.patches):
                break
            fuller.append((fill, place, tokens, patches))
        else:
            return None
        heapq.heappush(loads, (max(after[0] / budget.tokens, after[1] / budget.patches), place, *after))
        for load in fuller:
            heapq.heappush(loads, load)
        places.append(place)
    return places
