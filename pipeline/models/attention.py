"""Attention over packed sequences: one signature, several kernels, the best of which is chosen once.

In: q [Tq, H, D], k and v [Tk, Hkv, D], the segments of both, whether a query sees only what stands before it.
Out: [Tq, H, D]. Refused (ConfigError): a kernel that is not there, or that the device or dtype cannot run.

A causal query stands at the end of its segment's keys: `q` and `k` of a causal call have the same segments.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from pipeline.errors import ConfigError
from pipeline.models.segments import Run, Segments, cu_seqlens, segments_of

__all__ = ["Attention", "choose_attention"]

_log = logging.getLogger("lakevec")

AMPERE = (8, 0)
"""The first GPUs that the flash kernels run on."""

SAME = 0.05
"""Values of size 1 in 16 bits agree to about 0.01; a kernel that misreads heads or masks is off by about 1."""

FLEX_HEAD = 16
"""FlexAttention wants head dims that are powers of two, 16 at least."""


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
    """Whether `kernel` gives the exact kernel's values where versions differ: grouped heads, and a head dim of 72."""
    lengths = (3, 5)
    segments = segments_of(lengths, torch.from_numpy(cu_seqlens(lengths)).to(device))
    for heads, kv_heads, dim, causal in ((4, 2, 128, True), (2, 2, 72, False)):
        q = torch.randn(sum(lengths), heads, dim, device=device, dtype=dtype)
        k, v = torch.randn(2, sum(lengths), kv_heads, dim, device=device, dtype=dtype)
        try:
            got = kernel(q, k, v, segments, segments, causal=causal)
        except Exception as error:  # noqa: BLE001 - a kernel that fails in any way is one not to choose
            _log.warning("attention %s does not run here (%s); trying the next", name, str(error).split("\n")[0])
            return False
        exact = SegmentAttention(_sdpa)(q, k, v, segments, segments, causal=causal)
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
    return SegmentAttention(_eager if name == "eager" else _sdpa)


class SegmentAttention:
    """Exact attention segment by segment, neighbours of equal length in one call: the CPU's way, and the yardstick."""

    def __init__(self, kernel: Callable[[Tensor, Tensor, Tensor, bool], Tensor]) -> None:
        self._kernel = kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        out = torch.empty_like(q)
        for q_run, k_run in zip(*_aligned(of_q, of_k), strict=True):
            heads = self._kernel(_batched(q, q_run), _batched(k, k_run), _batched(v, k_run), causal)
            _batched(out, q_run).copy_(heads)
        return out


def _aligned(of_q: Segments, of_k: Segments) -> tuple[tuple[Run, ...], tuple[Run, ...]]:
    if of_q is of_k:
        return of_q.runs, of_k.runs
    # One query a segment (the pooled token): the keys' runs cut the queries.
    done, q_runs = 0, []
    for run in of_k.runs:
        q_runs.append(Run(done, run.segments, 1))
        done += run.segments
    return tuple(q_runs), of_k.runs


def _batched(x: Tensor, run: Run) -> Tensor:
    rows = x[run.start : run.start + run.segments * run.length]
    return rows.view(run.segments, run.length, *x.shape[1:]).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def _eager(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype), v)


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


class FlexAttention:
    """FlexAttention with one block mask a set of segments, kept for the layers that share it."""

    def __init__(self, *, compiled: bool) -> None:
        from torch.nn.attention import flex_attention

        self._attend: Any = flex_attention.flex_attention
        self._mask_of: Any = flex_attention.create_block_mask
        if compiled:
            self._attend = torch.compile(flex_attention.flex_attention, dynamic=True)
            # As it stands it writes out the whole square of a packed sequence before it looks at blocks.
            self._mask_of = torch.compile(flex_attention.create_block_mask, dynamic=True)
        self._made: tuple[Segments, Segments, bool, Any] | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        width = q.shape[-1]
        wide = max(FLEX_HEAD, 1 << (width - 1).bit_length())
        q, k, v = (pad(x, (0, wide - width)).transpose(0, 1)[None] for x in (q, k, v))
        mask = self._mask(of_q, of_k, causal, q.device)
        out = self._attend(q, k, v, block_mask=mask, scale=width**-0.5, enable_gqa=q.shape[1] != k.shape[1])
        heads: Tensor = out[0].transpose(0, 1)[..., :width]
        return heads.contiguous()

    def _mask(self, of_q: Segments, of_k: Segments, causal: bool, device: torch.device) -> Any:  # noqa: ANN401
        if self._made is not None and self._made[:3] == (of_q, of_k, causal):
            return self._made[3]
        q_item, k_item = _item_of(of_q, device), _item_of(of_k, device)

        def visible(batch: Tensor, head: Tensor, q_at: Tensor, k_at: Tensor) -> Tensor:
            same = q_item[q_at] == k_item[k_at]
            return same & (q_at >= k_at) if causal else same

        n_q, n_k = len(q_item), len(k_item)
        mask = self._mask_of(visible, None, None, n_q, n_k, device=str(device))
        self._made = (of_q, of_k, causal, mask)
        return mask


def _item_of(segments: Segments, device: torch.device) -> Tensor:
    # Without a given output size repeat_interleave would read the lengths back from the device.
    count = len(segments.lengths)
    return torch.repeat_interleave(
        torch.arange(count, device=device), segments.cu.diff(), output_size=sum(segments.lengths)
    )
