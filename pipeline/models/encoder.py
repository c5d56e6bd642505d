"""The encoder seam: prepared items in, raw pooled vectors out. Imports no torch, so that any process may name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RejectCode
from pipeline.types import Prepared

__all__ = ["Encoded", "Encoder"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one call of an encoder returns.

    `vectors`: float32[n, hidden_dim], the final-RMSNorm state of each item's last token, in the order given, not
    normalised; a row may hold NaN or infinity (`quantize` finds it). `padded_tokens`: tokens computed for nothing.
    `forwards`: micro-batches run; `filled`: the sum of their shares of the budget, so that filled ÷ forwards is the
    packing efficiency. `too_large`: indices of items that do not fit the device alone (their rows are NaN), and why.
    `failed`: the same of items that failed alone in another way, with a code of their own.
    """

    vectors: NDArray[np.float32]
    padded_tokens: int = 0
    forwards: int = 0
    filled: float = 0.0
    too_large: tuple[tuple[int, str], ...] = ()
    failed: tuple[tuple[int, RejectCode, str], ...] = ()

    @property
    def problems(self) -> dict[int, tuple[RejectCode, str]]:
        """Why items have no row, by index; one whose row is merely not finite is not among them."""
        large = {index: (RejectCode.GPU_OOM, detail) for index, detail in self.too_large}
        return large | {index: (code, detail) for index, code, detail in self.failed}

    @property
    def not_finite(self) -> list[int]:
        """Indices of rows that hold NaN or infinity and have no other problem."""
        problems = self.problems
        bad = np.flatnonzero(~np.isfinite(self.vectors).all(axis=1)).tolist()
        return [index for index in bad if index not in problems]

    def amended(self, indices: Sequence[int], again: Encoded) -> Encoded:
        """This with the finite rows of `again`, of which row i is a second try at `indices[i]`, and its costs added."""
        better = np.isfinite(again.vectors).all(axis=1)
        vectors = self.vectors.copy()
        vectors[np.asarray(indices)[better]] = again.vectors[better]
        return replace(
            self,
            vectors=vectors,
            padded_tokens=self.padded_tokens + again.padded_tokens,
            forwards=self.forwards + again.forwards,
            filled=self.filled + again.filled,
        )

    def spread(self, places: Sequence[int]) -> Encoded:
        """One row for each of `places`, which says whose row it is: several items may share one."""
        rows: dict[int, list[int]] = {}
        for index, place in enumerate(places):
            rows.setdefault(place, []).append(index)
        return replace(
            self,
            vectors=self.vectors[np.asarray(places, np.int64)],
            too_large=tuple(sorted((i, detail) for place, detail in self.too_large for i in rows.get(place, ()))),
            failed=tuple(sorted((i, code, text) for place, code, text in self.failed for i in rows.get(place, ()))),
        )

    @classmethod
    def joined(cls, parts: Sequence[Encoded], width: int) -> Encoded:
        """`parts` one behind the other, of vectors of length `width`."""
        starts = np.cumsum([0, *(len(part.vectors) for part in parts)]).tolist()
        placed = list(zip(starts, parts, strict=False))
        return cls(
            vectors=np.concatenate([np.empty((0, width), np.float32), *(part.vectors for part in parts)]),
            padded_tokens=sum(part.padded_tokens for part in parts),
            forwards=sum(part.forwards for part in parts),
            filled=sum(part.filled for part in parts),
            too_large=tuple((start + i, detail) for start, part in placed for i, detail in part.too_large),
            failed=tuple((start + i, code, text) for start, part in placed for i, code, text in part.failed),
        )


class Encoder(Protocol):
    """Anything that turns prepared items into vectors. Threads may share it."""

    @property
    def hidden_dim(self) -> int:
        """Length of a vector before any MRL cut."""

    @property
    def device(self) -> str:
        """Where it runs, as torch spells it: `cpu`, `cuda:0`."""

    @property
    def dtype(self) -> str:
        """The dtype of its weights and activations, as `model.dtype` spells it."""

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        """Vectors of `items`, one a row, in the order given. No items: float32[0, hidden_dim]."""
