"""The encoder seam: prepared items in, raw pooled vectors out. Imports no torch, so that any process may name it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.types import Prepared

__all__ = ["Encoded", "Encoder"]


@dataclass(frozen=True, slots=True)
class Encoded:
    """What one call of an encoder returns.

    `vectors`: float32[n, hidden_dim], the final-RMSNorm state of each item's last token, in the order given, not
    normalised; a row may hold NaN or infinity (`quantize` finds it). `padded_tokens`: tokens computed for nothing.
    `forwards`: micro-batches run; `filled`: the sum of their shares of the budget, so that filled ÷ forwards is the
    packing efficiency. `too_large`: indices of items that do not fit the device alone (their rows are NaN), and why.
    """

    vectors: NDArray[np.float32]
    padded_tokens: int = 0
    forwards: int = 0
    filled: float = 0.0
    too_large: tuple[tuple[int, str], ...] = ()


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
