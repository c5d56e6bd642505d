"""The element-wise pieces between the matrix products, as functions of tensors, so that each can be fused.

As written they round where the stock modules round (bit-equal in every dtype). `fused_pieces` compiles them: one pass
over memory each instead of up to ten, at higher precision within a piece, so 16-bit values differ in their last bits.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.loading import first_line
from pipeline.models.warm_up import Calls, PieceSizes, WarmUp

__all__ = ["Pieces", "fused_pieces", "stock_pieces"]

_log = logging.getLogger("lakevec")

WARM_UP_S = 90.0
"""After that no further piece is compiled. All of them took 22 s on two CPU cores (measured); where four times that is
not enough, something is wrong with the compiler, and a job had better begin."""


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
    device: torch.device, dtype: torch.dtype, sizes: PieceSizes, clock: Callable[[], float] = time.monotonic
) -> Pieces:
    """The pieces, compiled and warmed up one by one for `dtype` on `device`; each is the stock one if that fails.

    A piece stays stock, and a warning names it, if it cannot be compiled, if `device` lacks the memory to try it, or
    if `WARM_UP_S` seconds of `clock` have passed before its turn: compiling cannot be interrupted.
    """
    pieces, started = stock_pieces(), clock()
    warm_up = WarmUp(sizes, device, dtype)
    # Those that every layer runs come first, should the time end.
    fusible: dict[str, tuple[Callable[..., Any], Callable[[], Calls]]] = {
        "add_norm": (_fresh_add_norm, warm_up.add_norm),
        "norm_rope": (_norm_rope, warm_up.norm_rope),
        "swiglu": (_fresh_swiglu, warm_up.swiglu),
        "vision_rope": (_vision_rope, warm_up.vision_rope),
        "norm": (_norm, warm_up.norm),
    }
    unfused: dict[str, list[str]] = defaultdict(list)
    for name, (function, calls) in fusible.items():
        if clock() - started > WARM_UP_S:
            unfused[f"compiling took more than {WARM_UP_S:.0f} s"].append(name)
            continue
        try:
            pieces = replace(pieces, **{name: _compiled(function, calls)})
        except torch.OutOfMemoryError:
            unfused[f"no memory is left on {device} to try it"].append(name)
        except Exception as error:  # noqa: BLE001 - whatever a compiler fails with, there is a way without it
            unfused[f"torch.compile failed: {first_line(error)}"].append(name)
    stock = [name for names in unfused.values() for name in names]
    if fused := [name for name in fusible if name not in stock]:
        _log.info("fused %s in %.1f s", ", ".join(fused), clock() - started)
    for reason, names in unfused.items():
        _log.warning("the encoder runs %s unfused, slower (%s)", ", ".join(names), reason)
    return pieces


@torch.inference_mode()
def _compiled(function: Callable[..., Any], calls: Callable[[], Calls]) -> Callable[..., Any]:
    compiled = torch.compile(function)
    for arguments in calls():
        compiled(*arguments)
    return compiled


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
