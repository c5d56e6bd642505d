"""Calls that compile the fusible pieces for every shape a forward has.

In: the model's widths, device and dtype. Out: for each piece the arguments of its calls, made when asked for. They
are laid out as in a forward, for a compiled piece is bound to strides: weights are parameters, and the vision tower's
heads are views of what holds queries, keys and values together. Nothing is refused; making them may find no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["Calls", "PieceSizes", "WarmUp"]

Calls = Iterator[tuple[Tensor | float, ...]]
"""The arguments of one call after the other."""

ROWS = 64
"""Rows of the tensors that compile a piece for any number of rows from 2 on: they are marked dynamic."""

POOLED = 1
"""Rows of a forward that holds one item, once only its pooled token is left: a size that is compiled for itself."""

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class PieceSizes:
    """The widths that pieces are compiled for: of the language model, and the vision tower's heads (`vision_…`)."""

    hidden: int
    ffn: int
    q_heads: int
    kv_heads: int
    head_dim: int
    vision_heads: int
    vision_head_dim: int


@dataclass(frozen=True, slots=True)
class WarmUp:
    """The calls of each piece of `pipeline.models.pieces.Pieces`, by its name."""

    sizes: PieceSizes
    device: torch.device
    dtype: torch.dtype

    def norm(self) -> Calls:
        """Of the first layer's input."""
        yield self._rows(ROWS, self.sizes.hidden), self._weight(self.sizes.hidden), EPS

    def add_norm(self) -> Calls:
        """Of all tokens, and of a lone pooled one."""
        for rows in (ROWS, POOLED):
            x, delta = (self._rows(rows, self.sizes.hidden) for _ in range(2))
            yield x, delta, self._weight(self.sizes.hidden), EPS

    def norm_rope(self) -> Calls:
        """Of keys and queries; a lone pooled token has only a query."""
        for rows, heads in ((ROWS, self.sizes.kv_heads), (ROWS, self.sizes.q_heads), (POOLED, self.sizes.q_heads)):
            turns = (self._rows(rows, 1, self.sizes.head_dim // 2) for _ in range(2))
            yield self._rows(rows, heads, self.sizes.head_dim), self._weight(self.sizes.head_dim), EPS, *turns

    def swiglu(self) -> Calls:
        """Of all tokens, and of a lone pooled one."""
        for rows in (ROWS, POOLED):
            yield tuple(self._rows(rows, self.sizes.ffn) for _ in range(2))

    def vision_rope(self) -> Calls:
        """Of a picture's patches."""
        heads, dim = self.sizes.vision_heads, self.sizes.vision_head_dim
        picture = self._rows(ROWS, 3, heads, dim)[:, 0]
        torch._dynamo.mark_dynamic(picture, 0)
        yield picture, *(self._rows(ROWS, 1, dim // 2, dtype=torch.float32) for _ in range(2))

    @torch.inference_mode()
    def _rows(self, rows: int, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        made = torch.ones(rows, *shape, device=self.device, dtype=dtype or self.dtype)
        if rows > POOLED:
            torch._dynamo.mark_dynamic(made, 0)
        return made

    def _weight(self, width: int) -> Parameter:
        with torch.inference_mode(mode=False):
            return Parameter(torch.ones(width, device=self.device, dtype=self.dtype), requires_grad=False)
