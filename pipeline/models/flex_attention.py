"""FlexAttention over packed sequences: for GPUs and torch builds without a flash kernel for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.models.segments import Segments

__all__ = ["FlexAttention"]

LEAST_HEAD_DIM = 16
"""FlexAttention wants head dims that are powers of two, 16 at least."""

COMPILED_VARIANTS = 64
"""A forward's kinds of calls (either tower, pooled, behind prefixes; one block of keys or several, one query or more)
took all of torch's default of 8 within two batches on a CPU, and what is compiled no more writes out whole squares."""

KEPT_MASKS = 2
"""Layers take turns between an item's own keys and those of the prefix that it continues."""


class FlexAttention:
    """One block mask a set of segments, kept for the layers that share it. An `Attention`."""

    def __init__(self, *, compiled: bool) -> None:
        from torch.nn.attention import flex_attention

        self._attend: Any = flex_attention.flex_attention
        self._with_lse = flex_attention.AuxRequest(lse=True)
        self._mask_of: Any = flex_attention.create_block_mask
        if compiled:
            limits = torch._dynamo.config
            limits.recompile_limit = max(limits.recompile_limit, COMPILED_VARIANTS)
            self._attend = torch.compile(flex_attention.flex_attention, dynamic=True)
            # As it stands it writes out the whole square of a packed sequence before it looks at blocks.
            self._mask_of = torch.compile(flex_attention.create_block_mask, dynamic=True)
        self._made: list[tuple[Segments, Segments, bool, Any]] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        return self.with_lse(q, k, v, of_q, of_k, causal=causal)[0]

    def with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        width = q.shape[-1]
        wide = max(LEAST_HEAD_DIM, 1 << (width - 1).bit_length())
        q, k, v = (pad(x, (0, wide - width)).transpose(0, 1)[None] for x in (q, k, v))
        mask = self._mask(of_q, of_k, causal, q.device)
        grouped = q.shape[1] != k.shape[1]
        out, aux = self._attend(
            q, k, v, block_mask=mask, scale=width**-0.5, enable_gqa=grouped, return_aux=self._with_lse
        )
        return out[0].transpose(0, 1)[..., :width].contiguous(), aux.lse[0].transpose(0, 1)

    def _mask(self, of_q: Segments, of_k: Segments, causal: bool, device: torch.device) -> Any:  # noqa: ANN401
        for *known, mask in self._made:
            if known == [of_q, of_k, causal]:
                return mask
        q_item, k_item = _item_of(of_q, device), _item_of(of_k, device)

        def visible(batch: Tensor, head: Tensor, q_at: Tensor, k_at: Tensor) -> Tensor:
            same = q_item[q_at] == k_item[k_at]
            return same & (q_at >= k_at) if causal else same

        n_q, n_k = len(q_item), len(k_item)
        mask = self._mask_of(visible, None, None, n_q, n_k, device=str(device))
        self._made = [*self._made[1 - KEPT_MASKS :], (of_q, of_k, causal, mask)]
        return mask


def _item_of(segments: Segments, device: torch.device) -> Tensor:
    # Without a given output size repeat_interleave would read the lengths back from the device.
    count = len(segments.lengths)
    return torch.repeat_interleave(
        torch.arange(count, device=device), segments.cu.diff(), output_size=sum(segments.lengths)
    )
