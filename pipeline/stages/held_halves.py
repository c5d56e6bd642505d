"""Halves of a tile that are held from one window to the next, so that what later pairs need too is made once.

In: halves, or why there is none, by side and place, and at times which ones are still needed. Out: the same, as long as
there is room for them. Nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import RejectError
from pipeline.rerank.pair import RerankHalf
from pipeline.window import window_bytes

__all__ = ["HeldHalves"]

Key = tuple[str, int]
"""`query` or `document`, and the place among the tile's."""

_NEXT_PAIR = 2
"""Its query and its document."""


class HeldHalves:
    """Up to `max_bytes` of pixels and ids between windows; within one all that it shows is there anyway."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._halves: dict[Key, RerankHalf] = {}
        self._rejects: dict[Key, RejectError] = {}

    def get(self, key: Key) -> RerankHalf | RejectError | None:
        """What is held under `key`, None if nothing is."""
        return self._halves.get(key) or self._rejects.get(key)

    def put(self, key: Key, half: RerankHalf | RejectError) -> None:
        """Hold `half`: a reject for good, since another look at what hung would take as long again."""
        if isinstance(half, RejectError):
            # Not the one that was raised: its traceback holds the file's bytes.
            self._rejects[key] = RejectError(half.code, half.detail)
        else:
            self._halves[key] = half

    def make_room(self, coming: Iterable[Key]) -> None:
        """If more is held than `max_bytes`, keep of it what comes first in `coming`, the keys of all pairs to come.

        What the very next pair needs is kept whatever it weighs: it would be read again at once.
        """
        if sum(map(_weight, self._halves.values())) <= self._max_bytes:
            return
        kept: dict[Key, RerankHalf] = {}
        left = self._max_bytes
        for place, key in enumerate(dict.fromkeys(coming)):
            half = self._halves.get(key)
            if half is not None and (place < _NEXT_PAIR or _weight(half) <= left):
                kept[key] = half
                left -= _weight(half)
        self._halves = kept


def _weight(half: RerankHalf) -> int:
    """Bytes of what a half is made of; 1,024 texts of 8,192 tokens are 200 MB without a pixel."""
    prepared, ids = half.prepared, half.ids
    arrays = (prepared.input_ids, prepared.position_ids, ids.whole, ids.apart)
    return window_bytes(prepared) + sum(array.nbytes for array in arrays)
