"""The element-wise pieces between the matrix products, as functions of tensors, so that each can be fused.

As written they round where the stock modules round (bit-equal in every dtype). `fused_pieces` compiles them: one pass
over memory each instead of up to ten, at higher precision within a piece, so 16-bit values differ in their last bits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter, functional

__all__ = ["Pieces", "fused_pieces", "stock_pieces"]

_log = logging.getLogger("lakevec")

WARM_ROWS = 64
"""Rows of the tensors that compile a piece for any number of rows from 2 on: they are marked dynamic."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces a forward is made of, stock or fused.

    `norm`: RMSNorm of [..., n] with a weight [n]. `add_norm`: sum of two [T, n], and its RMSNorm; may reuse the
    first. `norm_rope`: RMSNorm and rotation of heads [T, H, D] by cos and sin [T, 1, D/2]. `swiglu`: silu of the
    first times the second; may reuse the first. `vision_rope`: rotation in float32.
    """

    norm: Callable[[Tensor, Tensor, float], Tensor]
    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    norm_rope: Callable[[Tensor, Tensor, float, Tensor, Tensor], Tensor]
    swiglu: Callable[[Tensor, Tensor], Tensor]
    vision_rope: Callable[[Tensor, Tensor, Tensor], Tensor]


def stock_pieces() -> Pieces:
    """The pieces with the rounding of the stock modules."""
    return Pieces(_norm, _add_norm, _norm_rope, _swiglu, _vision_rope)


def fused_pieces(
    device: torch.device,
    dtype: torch.dtype,
    *,
    hidden: int,
    ffn: int,
    heads: tuple[int, int, int],
    vision: tuple[int, int],
) -> Pieces:
    """Compiled pieces, warmed up for `dtype` on `device`; the stock ones, with a warning, if compiling fails.

    `hidden` and `ffn`: widths of the language model; `heads`: its query heads, key heads and their dim; `vision`: the
    vision tower's heads and their dim.
    """
    started = time.monotonic()
    fused = Pieces(
        norm=torch.compile(_norm),
        add_norm=torch.compile(_fresh_add_norm),
        norm_rope=torch.compile(_norm_rope),
        swiglu=torch.compile(_fresh_swiglu),
        vision_rope=torch.compile(_vision_rope),
    )
    try:
        _warm(fused, device, dtype, hidden, ffn, heads, vision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a compiler fails with, there is a way without it
        _log.warning("torch.compile failed (%s): the encoder runs unfused, slower", str(error).strip().split("\n")[0])
        return stock_pieces()
    _log.info("fused the element-wise pieces in %.1f s", time.monotonic() - started)
    return fused


def _warm(
    pieces: Pieces,
    device: torch.device,
    dtype: torch.dtype,
    hidden: int,
    ffn: int,
    heads: tuple[int, int, int],
    vision: tuple[int, int],
) -> None:
    # Laid out as in a forward, for a compiled piece is bound to strides: weights are parameters, and the vision tower's
    # heads are views of what holds queries, keys and values together.
    q_heads, kv_heads, dim = heads
    picture = _rows(WARM_ROWS, device, dtype, 3, *vision)[:, 0]
    torch._dynamo.mark_dynamic(picture, 0)
    wide, narrow, eps = _weight(hidden, device, dtype), _weight(dim, device, dtype), 1e-6
    vision_turns = [_rows(WARM_ROWS, device, torch.float32, 1, vision[1] // 2) for _ in range(2)]
    with torch.inference_mode():
        pieces.norm(_rows(WARM_ROWS, device, dtype, hidden), wide, eps)
        pieces.vision_rope(picture, *vision_turns)
        # One row is the pooled token of a forward that holds one item: a size that is compiled for itself.
        for rows, head_counts in ((WARM_ROWS, (kv_heads, q_heads)), (1, (q_heads,))):
            x, delta = (_rows(rows, device, dtype, hidden) for _ in range(2))
            pieces.add_norm(x, delta, wide, eps)
            pieces.swiglu(*(_rows(rows, device, dtype, ffn) for _ in range(2)))
            turns = [_rows(rows, device, dtype, 1, dim // 2) for _ in range(2)]
            for count in head_counts:
                pieces.norm_rope(_rows(rows, device, dtype, count, dim), narrow, eps, *turns)


def _rows(rows: int, device: torch.device, dtype: torch.dtype, *shape: int) -> Tensor:
    with torch.inference_mode():
        made = torch.ones(rows, *shape, device=device, dtype=dtype)
    if rows > 1:
        torch._dynamo.mark_dynamic(made, 0)
    return made


def _weight(width: int, device: torch.device, dtype: torch.dtype) -> Parameter:
    return Parameter(torch.ones(width, device=device, dtype=dtype), requires_grad=False)


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.to(torch.float32)
    variance = wide.pow(2).mean(-1, keepdim=True)
    return weight * (wide * torch.rsqrt(variance + eps)).to(x.dtype)


def _add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x.add_(delta)
    return total, _norm(total, weight, eps)


def _fresh_add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    total = x + delta
    return total, _norm(total, weight, eps)


def _norm_rope(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    return _rotated(_norm(x, weight, eps), cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate, inplace=True).mul_(up)


def _fresh_swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return functional.silu(gate) * up


def _vision_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _rotated(x.float(), cos, sin).to(x.dtype)
