"""The packed forward: one sequence of whole items through the stock model's weights, no pad token anywhere.

In: a `PackedBatch`. Out: the final-RMSNorm state of each item's last token. Modules and weights are the stock model's;
this owns the packing, the attention call and the order of the pieces, and asks the device nothing on the way: no
scalar is read back, no mask is turned into indices.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.models.attention import Attention
from pipeline.models.batch import PackedBatch, PackedPictures
from pipeline.models.pieces import Pieces
from pipeline.models.rows import by_rows
from pipeline.models.vision import PackedVision
from pipeline.packing import PATCHES_PER_TOKEN

__all__ = ["FeatureStore", "PackedModel"]

FeatureStore = dict[int, list[Tensor]]
"""Features of blocks, by key, that later micro-batches of a window show again: one tensor [n, hidden_dim] a level."""


class PackedModel:
    """A stock Qwen3VLModel that computes packed batches. `shortcut`: the last layer's queries, and all that follows
    from them, for pooled tokens only; the others' would be thrown away."""

    def __init__(self, stock: Any, attention: Attention, pieces: Pieces, *, shortcut: bool = True) -> None:  # noqa: ANN401
        self._language = stock.language_model
        self._vision = PackedVision(stock.visual, attention, pieces)
        self._attention = attention
        self._pieces = pieces
        self._shortcut = shortcut

    @property
    def width(self) -> int:
        """Length of a pooled state."""
        return int(self._language.config.hidden_size)

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch, store: FeatureStore, keep: Collection[int] = ()) -> Tensor:
        """Pooled states [items, hidden_dim] of `batch` in the model's dtype.

        Features of the keys in `keep` are put into `store`; those that the batch borrows are taken from there.
        """
        batch.arrive()
        states = self._language.embed_tokens(batch.ids)
        features = self._features(batch, store, keep)
        if features:
            states.index_copy_(0, batch.shown, features[0])
        cos, sin = self._angles(states, batch.positions)
        layers = list(self._language.layers)
        added: Tensor | None = None
        for number, layer in enumerate(layers):
            short = self._shortcut and number == len(layers) - 1
            states, added = self._layer(layer, states, added, batch, (cos, sin), short=short)
            if number + 1 < len(features) and not short:
                states, added = states.add_(added), None
                states.index_copy_(0, batch.shown, states.index_select(0, batch.shown).add_(features[number + 1]))
        states = states if added is None else states.add_(added)
        pooled = states if self._shortcut else states.index_select(0, batch.last)
        out: Tensor = self._language.norm(pooled)
        return out

    def _layer(
        self,
        layer: Any,  # noqa: ANN401 - a stock decoder layer
        states: Tensor,
        added: Tensor | None,
        batch: PackedBatch,
        angles: tuple[Tensor, Tensor],
        *,
        short: bool,
    ) -> tuple[Tensor, Tensor]:
        """The residual states after the attention, and what the MLP adds to them."""
        norm, attn = layer.input_layernorm, layer.self_attn
        if added is None:
            x = self._pieces.norm(states, norm.weight, norm.variance_epsilon)
        else:
            states, x = self._pieces.add_norm(states, added, norm.weight, norm.variance_epsilon)
        k, v = self._heads(attn.k_proj(x), attn), self._heads(attn.v_proj(x), attn)
        k = self._turned(k, attn.k_norm, angles)
        if short:
            x, states = x.index_select(0, batch.last), states.index_select(0, batch.last)
            angles = (angles[0].index_select(0, batch.last), angles[1].index_select(0, batch.last))
        q = self._turned(self._heads(attn.q_proj(x), attn), attn.q_norm, angles)
        of_q = batch.pooled if short else batch.segments
        mixed = self._attention(q, k, v, of_q, batch.segments, causal=not short)
        norm = layer.post_attention_layernorm
        states, x = self._pieces.add_norm(states, attn.o_proj(mixed.flatten(1)), norm.weight, norm.variance_epsilon)
        return states, by_rows(partial(self._mlp, layer.mlp), x, layer.mlp.gate_proj.out_features)

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - a stock MLP
        out: Tensor = mlp.down_proj(self._pieces.swiglu(mlp.gate_proj(x), mlp.up_proj(x)))
        return out

    def _heads(self, x: Tensor, attn: Any) -> Tensor:  # noqa: ANN401 - a stock attention
        return x.view(len(x), -1, attn.head_dim)

    def _turned(self, x: Tensor, norm: Any, angles: tuple[Tensor, Tensor]) -> Tensor:  # noqa: ANN401 - a stock norm
        return self._pieces.norm_rope(x, norm.weight, norm.variance_epsilon, *angles)

    def _angles(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._language.rotary_emb(states[None], positions[:, None])
        # Either half of a head turns by the same angles; the stock tensor has them twice.
        half = cos.shape[-1] // 2
        return cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()

    def _features(self, batch: PackedBatch, store: FeatureStore, keep: Collection[int]) -> list[Tensor]:
        """Of each level, what every visual token of the batch shows: [V, hidden_dim]; nothing without any."""
        parts = [self._vision(batch.pictures)] if batch.pictures is not None else []
        if batch.pictures is not None:
            _keep(batch.pictures, parts[0], store, keep)
        parts += [store[key] for key in batch.borrowed]
        return [torch.cat(level).index_select(0, batch.sources) for level in zip(*parts, strict=True)]


def _keep(pictures: PackedPictures, features: list[Tensor], store: FeatureStore, keep: Collection[int]) -> None:
    start = 0
    for key, patches in zip(pictures.keys, pictures.segments.lengths, strict=True):
        stop = start + patches // PATCHES_PER_TOKEN
        if key in keep:
            store[key] = [level[start:stop].clone() for level in features]
        start = stop
