"""Attention over packed sequences: one signature, several kernels, the best of which is chosen once.

In: q [Tq, H, D], k and v [Tk, Hkv, D], the segments of both, whether a query sees only what stands before it.
Out: [Tq, H, D]. Refused (ConfigError): a kernel that is not there, or that the device or dtype cannot run.

A causal query stands at the end of its segment's keys: `q` and `k` of a causal call have the same segments.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.flash_attention import FlashAttention, VarlenAttention
from pipeline.models.flex_attention import FlexAttention
from pipeline.models.segment_attention import SegmentAttention, eager, sdpa
from pipeline.models.segments import Segments, cu_seqlens, segments_of

__all__ = ["Attention", "check_attention", "choose_attention", "sums_cost_memory"]

_log = logging.getLogger("lakevec")

AMPERE = (8, 0)
"""The first GPUs that the flash kernels run on."""

SAME = 0.05
"""Values of size 1 in 16 bits agree to about 0.01; a kernel that misreads heads or masks is off by about 1."""


class Attention(Protocol):
    """An attention kernel over packed sequences."""

    def __call__(  # noqa: D102 - the module says it
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> Tensor: ...

    def with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """The same, and float32[Tq, H]: the natural logarithm of the sum of each query's exponentiated scores."""


def check_attention(wanted: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ConfigError if the kernel that `model.attention` names cannot run here."""
    problem = None if wanted == "auto" else _problem(wanted, device, dtype)
    if problem:
        raise ConfigError(f"model.attention {wanted} {problem}")


def choose_attention(
    wanted: str, device: torch.device, dtype: torch.dtype, *, invariant: bool = False
) -> tuple[str, Attention]:
    """The kernel for `model.attention` = `wanted` and its name. `invariant`: the same bits in any company.

    `auto`: the first of varlen, flash_attention_2 and flex that this GPU and torch can run in 16 bits, and sdpa
    elsewhere. Raises ConfigError if what is named cannot run here.
    """
    check_attention(wanted, device, dtype)
    if wanted != "auto":
        return wanted, _kernel(wanted, invariant)
    preferred = ("varlen", "flash_attention_2", "flex") if device.type == "cuda" else ()
    for name in preferred:
        if not _problem(name, device, dtype) and _works(kernel := _kernel(name, invariant), name, device, dtype):
            return name, kernel
    return "sdpa", _kernel("sdpa", invariant)


def sums_cost_memory(name: str, device: torch.device) -> bool:
    """Whether `with_lse` of the kernel `name` writes out squares of scores that a plain call does not."""
    return name == "sdpa" and device.type != "cpu"


@torch.inference_mode()
def _works(kernel: Attention, name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `kernel` gives the exact kernel's values where versions differ: grouped heads, the last layer's single
    queries, a head dim of 72, queries and keys of unlike lengths; and the exact logarithms."""
    many, single, few = (_segments(lengths, device) for lengths in ((3, 5), (1, 1), (2, 4)))
    exact = SegmentAttention(sdpa)
    for of_q, heads, kv_heads, dim, causal in (
        (many, 4, 2, 128, True),
        (single, 4, 2, 128, False),
        (few, 4, 2, 128, False),
        (many, 2, 2, 72, False),
    ):
        q = torch.randn(sum(of_q.lengths), heads, dim, device=device, dtype=dtype)
        k, v = torch.randn(2, sum(many.lengths), kv_heads, dim, device=device, dtype=dtype)
        try:
            plain = kernel(q, k, v, of_q, many, causal=causal)
            got = kernel.with_lse(q, k, v, of_q, many, causal=causal)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a kernel that fails in any way is one not to choose
            _log.warning("attention %s does not run here (%s); trying the next", name, str(error).split("\n")[0])
            return False
        wanted = exact.with_lse(q, k, v, of_q, many, causal=causal)
        if not all(_close(*pair) for pair in ((plain, wanted[0]), *zip(got, wanted, strict=True))):
            _log.warning("attention %s gives other values than sdpa; trying the next", name)
            return False
    return True


def _segments(lengths: tuple[int, ...], device: torch.device) -> Segments:
    return segments_of(lengths, torch.from_numpy(cu_seqlens(lengths)).to(device))


def _close(got: Tensor, wanted: Tensor) -> bool:
    return got.shape == wanted.shape and torch.allclose(got.float(), wanted.float(), atol=SAME)


def _problem(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    if name in ("sdpa", "eager"):
        return None
    if dtype == torch.float32:
        return "computes in 16 bits only; set model.dtype: bfloat16"
    if device.type != "cuda":
        return f"needs a GPU; this runs on {device} (set model.attention: auto)"
    if name == "varlen":
        if _varlen() is None:
            return "needs torch.nn.attention.varlen, which this torch lacks (set model.attention: auto)"
        if torch.cuda.get_device_capability(device) < AMPERE:
            return "needs an Ampere GPU or newer (set model.attention: auto)"
    if name == "flash_attention_2" and _flash() is None:
        return "needs the package flash-attn, which cannot be imported (set model.attention: auto)"
    return None


def _kernel(name: str, invariant: bool) -> Attention:
    if name == "varlen":
        return VarlenAttention(_varlen(), invariant=invariant)
    if name == "flash_attention_2":
        return FlashAttention(_flash())
    if name == "flex":
        return FlexAttention(compiled=True)
    return SegmentAttention(eager if name == "eager" else sdpa)


def _varlen() -> Any:  # noqa: ANN401 - a function whose signature differs between versions
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def _flash() -> Any:  # noqa: ANN401 - an optional package without types
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func
