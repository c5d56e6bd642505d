"""The packed vision tower: the blocks of a batch in one pass, one attention call a layer.

In: packed pictures. Out: the merged features and those of each deepstack tap, all [V, hidden_dim]. The weights and the
modules with matrix products are the stock model's; the packing, the rotation and the attention call are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.attention import Attention
from pipeline.models.batch import PackedPictures
from pipeline.models.patches import patchify_blocks
from pipeline.models.pieces import Pieces
from pipeline.models.rows import by_rows
from pipeline.models.segments import Segments

__all__ = ["PackedVision"]


class PackedVision:
    """A stock vision tower (with its patch embedding as a product) that computes packed blocks."""

    def __init__(self, stock: Any, attention: Attention, pieces: Pieces) -> None:  # noqa: ANN401 - transformers has no types
        self._stock = stock
        self._attention = attention
        self._pieces = pieces

    def __call__(self, pictures: PackedPictures) -> list[Tensor]:
        """Features [V, hidden_dim] of each level: what replaces the pads, then what each deepstack tap adds."""
        states = self._embedded(pictures)
        cos, sin = self._angles(pictures.places)
        taps = list(self._stock.deepstack_visual_indexes)
        added: list[Tensor] = [states] * len(taps)
        for number, block in enumerate(self._stock.blocks):
            attended = self._attended(block.attn, block.norm1(states), pictures.segments, cos, sin)
            states = states.add_(attended)
            states = states.add_(by_rows(block.mlp, block.norm2(states), block.mlp.linear_fc1.out_features))
            if number in taps:
                level = taps.index(number)
                added[level] = self._stock.deepstack_merger_list[level](states)
        return [self._stock.merger(states), *added]

    def _embedded(self, pictures: PackedPictures) -> Tensor:
        dtype = self._stock.patch_embed.weight.dtype
        patches = torch.cat([patchify_blocks(stack, dtype) for stack in pictures.stacks])
        # The table's entries are weighted and summed in float32, as the stock tower does, without storing four each.
        places = torch.nn.functional.embedding_bag(
            pictures.entries, self._stock.pos_embed.weight.float(), per_sample_weights=pictures.weights, mode="sum"
        )
        states: Tensor = self._stock.patch_embed(patches)
        return states.add_(places.to(states.dtype))

    def _angles(self, places: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = self._stock.rotary_pos_emb.inv_freq.float()
        angles = (places[:, :, None].float() * frequencies).flatten(1)[:, None]
        return angles.cos(), angles.sin()

    def _attended(self, attn: Any, states: Tensor, segments: Segments, cos: Tensor, sin: Tensor) -> Tensor:  # noqa: ANN401
        q, k, v = attn.qkv(states).view(len(states), 3, attn.num_heads, -1).unbind(1)
        q, k = self._pieces.vision_rope(q, cos, sin), self._pieces.vision_rope(k, cos, sin)
        mixed = self._attention(q, k, v, segments, segments, causal=False)
        out: Tensor = attn.proj(mixed.flatten(1))
        return out
