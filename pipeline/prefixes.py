"""Prefixes: the tokens that items have in common at their beginning, taken out so that they are computed once.

In: prepared items. Out: prefixes, and items that continue them. Nothing is refused; what shares too little stays whole.
With causal attention the keys and values of a prefix do not depend on what follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Prepared

__all__ = ["WHOLE", "Prefixed", "split_prefixes"]

WHOLE = -1
"""Stands for the prefix of an item that has none."""

SAMPLED_TOKENS = 8
"""Items that agree in so many first tokens are compared further: enough to tell instructions apart, mostly."""


@dataclass(frozen=True, slots=True)
class Prefixed:
    """Items in parts: item i is `prefixes[of[i]]` followed by `items[i]`, or `items[i]` alone where that is `WHOLE`.

    An `items[i]` has at least one token, and the position ids that it has in the whole.
    """

    prefixes: tuple[Prepared, ...]
    items: tuple[Prepared, ...]
    of: tuple[int, ...]

    @classmethod
    def whole(cls, items: Sequence[Prepared]) -> Prefixed:
        """`items` as they are."""
        return cls((), tuple(items), (WHOLE,) * len(items))

    def joined(self, index: int) -> Prepared:
        """Item `index` in one piece. Its `content_hash` is that of the part, which names no whole."""
        item = self.items[index]
        if self.of[index] == WHOLE:
            return item
        prefix = self.prefixes[self.of[index]]
        return replace(
            item,
            input_ids=np.concatenate([prefix.input_ids, item.input_ids]),
            position_ids=np.concatenate([prefix.position_ids, item.position_ids], axis=1),
            visuals=(*prefix.visuals, *item.visuals),
            n_visual_tokens=prefix.n_visual_tokens + item.n_visual_tokens,
            n_frames=prefix.n_frames + item.n_frames,
        )

    @property
    def saved_tokens(self) -> int:
        """Tokens that need not be computed because a prefix is shared."""
        lengths = [prefix.n_tokens for prefix in self.prefixes]
        return sum(lengths[each] for each in self.of if each != WHOLE) - sum(lengths)


def split_prefixes(
    items: Sequence[Prepared], pads: Sequence[int], *, least_tokens: int, least_share: float
) -> Prefixed:
    """`items` with the text they begin with in common, up to the first of the token ids `pads`, taken out.

    Items that agree in their first `SAMPLED_TOKENS` tokens are a group; a group whose common prefix saves fewer than
    `least_tokens` tokens, or a smaller share of its own than `least_share`, stays whole.
    """
    groups: dict[bytes, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.input_ids[:SAMPLED_TOKENS].tobytes(), []).append(index)
    prefixes: list[Prepared] = []
    parts, of = list(items), [WHOLE] * len(items)
    for members in groups.values():
        length = _common([items[index].input_ids for index in members], pads)
        saved = length * (len(members) - 1)
        if saved < max(1, least_tokens, least_share * sum(items[index].n_tokens for index in members)):
            continue
        for index in members:
            parts[index], of[index] = _without(items[index], length), len(prefixes)
        prefixes.append(_beginning(items[members[0]], length))
    return Prefixed(tuple(prefixes), tuple(parts), tuple(of))


def _common(rows: Sequence[NDArray[np.int32]], pads: Sequence[int]) -> int:
    """Tokens that all of `rows` begin with; one token of each is left over."""
    length = min(len(row) for row in rows) - 1
    first = rows[0][:length]
    for row in rows[1:]:
        differs = np.flatnonzero(row[: len(first)] != first)
        first = first[: differs[0]] if len(differs) else first
    visual = np.flatnonzero(np.isin(first, pads))
    return int(visual[0]) if len(visual) else len(first)


def _beginning(item: Prepared, length: int) -> Prepared:
    return replace(
        item,
        input_ids=item.input_ids[:length],
        position_ids=item.position_ids[:, :length],
        visuals=(),
        n_visual_tokens=0,
        n_frames=0,
    )


def _without(item: Prepared, length: int) -> Prepared:
    return replace(item, input_ids=item.input_ids[length:], position_ids=item.position_ids[:, length:])
