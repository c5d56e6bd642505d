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
    """`kernel` on one segment after another, neighbours of equal lengths in one call. An `Attention`."""

    def __init__(self, kernel: Callable[[Tensor, Tensor, Tensor, bool], Tensor]) -> None:
        self._kernel = kernel

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        out = torch.empty_like(q)
        for q_run, k_run in _paired(of_q, of_k):
            heads = self._kernel(_batched(q, q_run), _batched(k, k_run), _batched(v, k_run), causal)
            _batched(out, q_run).copy_(heads)
        return out

    def with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        exact = _flash_cpu if self._kernel is sdpa and q.device.type == "cpu" else _spelt_out
        out, lse = torch.empty_like(q), q.new_empty(*q.shape[:2], 1, dtype=torch.float32)
        for q_run, k_run in _paired(of_q, of_k):
            heads, sums = exact(_batched(q, q_run), _batched(k, k_run), _batched(v, k_run), causal)
            _batched(out, q_run).copy_(heads)
            _batched(lse, q_run).copy_(sums[..., None])
        return out, lse[..., 0]


def _paired(of_q: Segments, of_k: Segments) -> list[tuple[Run, Run]]:
    """Runs of segments whose queries are of one length, and whose keys are."""
    if of_q is of_k:
        return list(zip(of_q.runs, of_k.runs, strict=True))
    pairs: list[tuple[Run, Run]] = []
    at_q = at_k = 0
    for n_q, n_k in zip(of_q.lengths, of_k.lengths, strict=True):
        if pairs and (pairs[-1][0].length, pairs[-1][1].length) == (n_q, n_k):
            q_run, k_run = pairs[-1]
            more = q_run.segments + 1
            pairs[-1] = (q_run._replace(segments=more), k_run._replace(segments=more))
        else:
            pairs.append((Run(at_q, 1, n_q), Run(at_k, 1, n_k)))
        at_q, at_k = at_q + n_q, at_k + n_k
    return pairs


def _batched(x: Tensor, run: Run) -> Tensor:
    rows = x[run.start : run.start + run.segments * run.length]
    return rows.view(run.segments, run.length, *x.shape[1:]).transpose(1, 2)


def sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Torch's own kernel: q [n, H, L, D], k and v [n, Hkv, L, D]."""
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])


def eager(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """The formula as it stands, the softmax in float32; shapes as in `sdpa`."""
    scores, v = _scores(q, k, v, causal)
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype), v)


def _spelt_out(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    scores, v = _scores(q, k, v, causal)
    lse = scores.float().logsumexp(-1)
    return torch.matmul((scores - lse[..., None]).exp().to(q.dtype), v), lse


def _flash_cpu(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    # What scaled_dot_product_attention calls on a CPU; it keeps the logarithms to itself.
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
    return out, lse


def _scores(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Scores [n, H, Lq, Lk], and `v` with a head for each of theirs."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(future, -math.inf)
    return scores, v
