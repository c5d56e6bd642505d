"""Attention over packed sequences: one signature, several kernels, the best of which is chosen once.

In: q [Tq, H, D], k and v [Tk, Hkv, D], the segments of both, whether a query sees only what stands before it.
Out: [Tq, H, D]. Refused (ConfigError): a kernel that is not there, or that the device or dtype cannot run.

A causal query stands at the end of its segment's keys: `q` and `k` of a causal call have the same segments.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.models.flex_attention import FlexAttention
from pipeline.models.segment_attention import SegmentAttention, eager, sdpa
from pipeline.models.segments import Segments, cu_seqlens, segments_of

__all__ = ["Attention", "choose_attention", "varlen_options"]

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


def choose_attention(
    wanted: str, device: torch.device, dtype: torch.dtype, *, invariant: bool = False
) -> tuple[str, Attention]:
    """The kernel for `model.attention` = `wanted` and its name. `invariant`: the same bits in any company.

    `auto`: the first of varlen, flash_attention_2 and flex that this GPU and torch can run in 16 bits, and sdpa
    elsewhere. Raises ConfigError if what is named cannot run here.
    """
    if wanted != "auto":
        problem = _problem(wanted, device, dtype)
        if problem:
            raise ConfigError(f"model.attention {wanted} {problem}")
        return wanted, _kernel(wanted, invariant)
    preferred = ("varlen", "flash_attention_2", "flex") if device.type == "cuda" else ()
    for name in preferred:
        if not _problem(name, device, dtype) and _works(kernel := _kernel(name, invariant), name, device, dtype):
            return name, kernel
    return "sdpa", _kernel("sdpa", invariant)


@torch.inference_mode()
def _works(kernel: Attention, name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `kernel` gives the exact kernel's values where versions differ: grouped heads, the last layer's single
    queries, and a head dim of 72."""
    many, single = (
        segments_of(lengths, torch.from_numpy(cu_seqlens(lengths)).to(device)) for lengths in ((3, 5), (1, 1))
    )
    for of_q, heads, kv_heads, dim, causal in (
        (many, 4, 2, 128, True),
        (single, 4, 2, 128, False),
        (many, 2, 2, 72, False),
    ):
        q = torch.randn(sum(of_q.lengths), heads, dim, device=device, dtype=dtype)
        k, v = torch.randn(2, sum(many.lengths), kv_heads, dim, device=device, dtype=dtype)
        try:
            got = kernel(q, k, v, of_q, many, causal=causal)
        except Exception as error:  # noqa: BLE001 - a kernel that fails in any way is one not to choose
            _log.warning("attention %s does not run here (%s); trying the next", name, str(error).split("\n")[0])
            return False
        exact = SegmentAttention(sdpa)(q, k, v, of_q, many, causal=causal)
        if not torch.allclose(got.float(), exact.float(), atol=SAME):
            _log.warning("attention %s gives other values than sdpa; trying the next", name)
            return False
    return True


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
        return _varlen_attention(invariant)
    if name == "flash_attention_2":
        return _flash_attention()
    if name == "flex":
        return FlexAttention(compiled=True)
    return SegmentAttention(eager if name == "eager" else sdpa)


def _varlen() -> Any:  # noqa: ANN401 - a function whose signature differs between versions
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def varlen_options(parameters: object, *, causal: bool, gqa: bool, invariant: bool) -> dict[str, Any]:
    """Keyword arguments that say this to a `varlen_attn` with such `parameters` (names of its signature).

    Torch 2.10 has `is_causal`, later ones `window_size`; `enable_gqa` and `num_splits` came later still.
    """
    names = set(parameters)  # type: ignore[call-overload]
    options: dict[str, Any] = {}
    if causal:
        options |= {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    if gqa and "enable_gqa" in names:
        options["enable_gqa"] = True
    if invariant and "num_splits" in names:
        options["num_splits"] = 1
    return options


def _varlen_attention(invariant: bool) -> Attention:
    varlen = _varlen()
    parameters = inspect.signature(varlen).parameters

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        grouped = q.shape[1] != k.shape[1]
        options = varlen_options(parameters, causal=causal, gqa=grouped, invariant=invariant)
        out: Tensor = varlen(q, k, v, of_q.cu, of_k.cu, of_q.longest, of_k.longest, **options)
        return out

    return attend


def _flash() -> Any:  # noqa: ANN401 - an optional package without types
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError:
        return None
    return flash_attn_varlen_func


def _flash_attention() -> Attention:
    flash = _flash()

    def attend(q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        out: Tensor = flash(q, k, v, of_q.cu, of_k.cu, of_q.longest, of_k.longest, causal=causal)
        return out

    return attend
