"""Exact attention segment by segment: the CPU's way, and the yardstick of the kernels that do it in one launch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pipeline.models.segments import Run, Segments

__all__ = ["SegmentAttention", "eager", "sdpa"]


class SegmentAttention:
    """`kernel` on one segment after another, neighbours of equal length in one call. An `Attention`."""

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


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Torch's own kernel: q [n, H, L, D], k and v [n, Hkv, L, D]."""
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def eager(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The formula as it stands, the softmax in float32; shapes as in `sdpa`."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype), v)
