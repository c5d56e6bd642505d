"""Attention behind a shared prefix: each query sees the prefix that its item continues, and what stands before it.

The prefix's keys are read once for all items that continue it, the item's own by themselves, and the two answers are
weighed by their sums of exponentiated scores, which is exact: softmax over a union of keys is the mean of the softmaxes
over its parts, weighed so (as flash kernels do block by block; Dao et al. 2022, arXiv 2205.14135).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.attention import Attention
from pipeline.models.segments import Segments

__all__ = ["Behind", "attend_behind"]


@dataclass(frozen=True, slots=True, eq=False)
class Behind:
    """One layer's `k` and `v` [P, Hkv, D] of several prefixes, whose segments are `of_k`, and the queries that continue
    each: the first ones of all, in segments `of_q`."""

    k: Tensor
    v: Tensor
    of_q: Segments
    of_k: Segments


def attend_behind(
    attention: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    of_q: Segments,
    of_k: Segments,
    *,
    causal: bool,
    prefix: Behind,
) -> Tensor:
    """`attention` as it stands, where the first queries see `prefix` too; [Tq, H, D]."""
    own, own_sum = attention.with_lse(q, k, v, of_q, of_k, causal=causal)
    rows = sum(prefix.of_q.lengths)
    far, far_sum = attention.with_lse(q[:rows], prefix.k, prefix.v, prefix.of_q, prefix.of_k, causal=False)
    # In 16 bits the rounded share is off by no more than the rounded answers are, and one pass over memory does it all.
    own[:rows].lerp_(far, torch.sigmoid(far_sum - own_sum[:rows])[..., None].to(own.dtype))
    return own
