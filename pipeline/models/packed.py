"""The packed forward: one sequence of whole items through the stock model's weights, no pad token anywhere.

In: a `PackedBatch`. Out: the final-RMSNorm state of each item's last token, or, of prefixes, what their continuations
attend to. Modules and weights are the stock model's; this owns the packing, the attention call and the order of the
pieces, and asks the device nothing on the way: no scalar is read back, no mask is turned into indices.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.models.attention import Attention
from pipeline.models.batch import PackedBatch, PackedPictures, PackedPrefixes
from pipeline.models.cascade import Behind, attend_behind
from pipeline.models.pieces import Pieces
from pipeline.models.rows import by_rows
from pipeline.models.vision import PackedVision
from pipeline.packing import PATCHES_PER_TOKEN

__all__ = ["FeatureStore", "KeysValues", "PackedModel", "PrefixStore"]

FeatureStore = dict[int, list[Tensor]]
"""Features of blocks, by key, that later micro-batches of a window show again: one tensor [n, hidden_dim] a level."""

KeysValues = list[tuple[Tensor, Tensor]]
"""Of each layer, the keys (turned) and values [P, Hkv, D] of a prefix."""

PrefixStore = dict[int, KeysValues]
"""What the continuations of prefixes attend to, by key."""


@dataclass(slots=True)
class _Residual:
    """The residual stream: `states`, to which `added` is still to be added, where a fused piece can do it."""

    states: Tensor
    added: Tensor | None = None

    def summed(self) -> Tensor:
        if self.added is not None:
            self.states, self.added = self.states.add_(self.added), None
        return self.states


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

    @property
    def prefix_bytes_per_token(self) -> int:
        """What `read` keeps of a token."""
        keys = self._language.layers[0].self_attn.k_proj.weight
        return int(2 * self._n_layers * keys.shape[0] * keys.element_size())

    @torch.inference_mode()
    def __call__(
        self,
        batch: PackedBatch,
        store: FeatureStore,
        keep: Collection[int] = (),
        prefixes: PrefixStore | None = None,
    ) -> Tensor:
        """Pooled states [items, hidden_dim] of `batch` in the model's dtype.

        Features of the keys in `keep` are put into `store`; those that the batch borrows are taken from there, and what
        its items attend to behind them from `prefixes`.
        """
        batch.arrive()
        features = self._features(batch, store, keep)
        residual, angles = self._entered(batch, features)
        for number, layer in self._layers():
            short = self._shortcut and number == self._n_layers - 1
            x = self._normed(layer, residual)
            k, v = self._keys_values(layer.self_attn, x, angles)
            if short:
                x, residual.states = x.index_select(0, batch.last), residual.states.index_select(0, batch.last)
                angles = (angles[0].index_select(0, batch.last), angles[1].index_select(0, batch.last))
            q = self._turned(self._heads(layer.self_attn.q_proj(x), layer.self_attn), layer.self_attn.q_norm, angles)
            behind = None
            if batch.prefixes is not None and prefixes is not None:
                behind = _behind(batch.prefixes, prefixes, number, pooled=short)
            self._leave(layer, residual, self._attended(q, k, v, batch, behind, pooled=short))
            if not short:
                _tap(residual, batch, features, number)
        states = residual.summed()
        pooled = states if self._shortcut else states.index_select(0, batch.last)
        out: Tensor = self._language.norm(pooled)
        return out

    @torch.inference_mode()
    def read(self, batch: PackedBatch, store: FeatureStore, keep: Collection[int] = ()) -> list[KeysValues]:
        """Keys and values of each item of `batch`, a prefix each. `store` and `keep` as in a call."""
        batch.arrive()
        features = self._features(batch, store, keep)
        residual, angles = self._entered(batch, features)
        read: KeysValues = []
        for number, layer in self._layers():
            x = self._normed(layer, residual)
            k, v = self._keys_values(layer.self_attn, x, angles)
            read.append((k, v))
            if number == self._n_layers - 1:
                break
            q = self._turned(self._heads(layer.self_attn.q_proj(x), layer.self_attn), layer.self_attn.q_norm, angles)
            self._leave(layer, residual, self._attended(q, k, v, batch, None, pooled=False))
            _tap(residual, batch, features, number)
        lengths = list(batch.segments.lengths)
        parts = [tuple(zip(torch.split(k, lengths), torch.split(v, lengths), strict=True)) for k, v in read]
        return [list(each) for each in zip(*parts, strict=True)]

    @property
    def _n_layers(self) -> int:
        return len(self._language.layers)

    def _layers(self) -> Iterator[tuple[int, Any]]:
        return enumerate(self._language.layers)

    def _entered(self, batch: PackedBatch, features: Sequence[Tensor]) -> tuple[_Residual, tuple[Tensor, Tensor]]:
        states = self._language.embed_tokens(batch.ids)
        if features:
            states.index_copy_(0, batch.shown, features[0])
        cos, sin = self._language.rotary_emb(states[None], batch.positions[:, None])
        # Either half of a head turns by the same angles; the stock tensor has them twice.
        half = cos.shape[-1] // 2
        return _Residual(states), (cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous())

    def _normed(self, layer: Any, residual: _Residual) -> Tensor:  # noqa: ANN401 - a stock decoder layer
        norm = layer.input_layernorm
        if residual.added is None:
            return self._pieces.norm(residual.states, norm.weight, norm.variance_epsilon)
        residual.states, x = self._pieces.add_norm(residual.states, residual.added, norm.weight, norm.variance_epsilon)
        residual.added = None
        return x

    def _keys_values(self, attn: Any, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        k, v = self._heads(attn.k_proj(x), attn), self._heads(attn.v_proj(x), attn)
        return self._turned(k, attn.k_norm, angles), v

    def _attended(
        self, q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, behind: Behind | None, *, pooled: bool
    ) -> Tensor:
        of_q = batch.pooled if pooled else batch.segments
        if behind is None:
            return self._attention(q, k, v, of_q, batch.segments, causal=not pooled)
        return attend_behind(self._attention, q, k, v, of_q, batch.segments, causal=not pooled, prefix=behind)

    def _leave(self, layer: Any, residual: _Residual, mixed: Tensor) -> None:  # noqa: ANN401 - a stock decoder layer
        norm = layer.post_attention_layernorm
        out = layer.self_attn.o_proj(mixed.flatten(1))
        residual.states, x = self._pieces.add_norm(residual.states, out, norm.weight, norm.variance_epsilon)
        residual.added = by_rows(partial(self._mlp, layer.mlp), x, layer.mlp.gate_proj.out_features)

    def _mlp(self, mlp: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - a stock MLP
        out: Tensor = mlp.down_proj(self._pieces.swiglu(mlp.gate_proj(x), mlp.up_proj(x)))
        return out

    def _heads(self, x: Tensor, attn: Any) -> Tensor:  # noqa: ANN401 - a stock attention
        return x.view(len(x), -1, attn.head_dim)

    def _turned(self, x: Tensor, norm: Any, angles: tuple[Tensor, Tensor]) -> Tensor:  # noqa: ANN401 - a stock norm
        return self._pieces.norm_rope(x, norm.weight, norm.variance_epsilon, *angles)

    def _features(self, batch: PackedBatch, store: FeatureStore, keep: Collection[int]) -> list[Tensor]:
        """Of each level, what every visual token of the batch shows: [V, hidden_dim]; nothing without any."""
        parts = [self._vision(batch.pictures)] if batch.pictures is not None else []
        if batch.pictures is not None:
            _keep(batch.pictures, parts[0], store, keep)
        parts += [store[key] for key in batch.borrowed]
        return [torch.cat(level).index_select(0, batch.sources) for level in zip(*parts, strict=True)]


def _tap(residual: _Residual, batch: PackedBatch, features: Sequence[Tensor], number: int) -> None:
    """Add the features of the deepstack tap behind layer `number`, if there is one."""
    if number + 1 < len(features):
        states = residual.summed()
        states.index_copy_(0, batch.shown, states.index_select(0, batch.shown).add_(features[number + 1]))


def _behind(prefixes: PackedPrefixes, store: PrefixStore, number: int, *, pooled: bool) -> Behind:
    found = [store[key][number] for key in prefixes.keys]
    k, v = found[0] if len(found) == 1 else (torch.cat([k for k, _ in found]), torch.cat([v for _, v in found]))
    return Behind(k, v, prefixes.pooled if pooled else prefixes.continued, prefixes.segments)


def _keep(pictures: PackedPictures, features: list[Tensor], store: FeatureStore, keep: Collection[int]) -> None:
    start = 0
    for key, patches in zip(pictures.keys, pictures.segments.lengths, strict=True):
        stop = start + patches // PATCHES_PER_TOKEN
        if key in keep:
            store[key] = [level[start:stop].clone() for level in features]
        start = stop
