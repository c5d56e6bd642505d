"""Models of the true shapes with random weights N(0, 0.02), and the floating point operations of their forwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import Qwen3VLConfig, Qwen3VLModel

from pipeline.types import Prepared, Visual

__all__ = ["B2", "B8", "TINY", "Shape", "flops_of", "flops_of_token", "random_model", "text_flops", "vision_flops"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that make a Qwen3-VL: language model first, then vision tower (`v_…`)."""

    name: str
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    v_hidden: int
    v_ffn: int
    v_layers: int
    v_heads: int

    def cut(self, layers: int, v_layers: int) -> Shape:
        """The same widths with fewer layers."""
        return replace(self, layers=layers, v_layers=v_layers)


B2 = Shape("2b", 2048, 6144, 28, 16, 8, 128, 1024, 4096, 24, 16)
B8 = Shape("8b", 4096, 12288, 36, 32, 8, 128, 1152, 4304, 27, 16)
TINY = Shape("tiny", 64, 96, 4, 4, 2, 16, 32, 64, 4, 4)

TAPS = {24: [5, 11, 17], 27: [8, 16, 24]}
"""Where the deepstack taps of the two vision towers sit."""


def random_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> Qwen3VLModel:
    """The stock model of `shape`, initialised by the library itself (N(0, 0.02)) on `device`."""
    taps = TAPS.get(shape.v_layers, list(range(min(3, shape.v_layers))))
    thirds = shape.head_dim // 8
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    rope["mrope_section"] = [
        shape.head_dim // 2 - 2 * (thirds + thirds // 4),
        thirds + thirds // 4,
        thirds + thirds // 4,
    ]
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": shape.hidden, "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "rope_theta": 5e6,
            "rope_scaling": rope, "max_position_embeddings": 262144, "bos_token_id": 151643,
        },
        vision_config={
            "depth": shape.v_layers, "hidden_size": shape.v_hidden, "intermediate_size": shape.v_ffn,
            "num_heads": shape.v_heads, "out_hidden_size": shape.hidden, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": taps,
        },
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3VLModel(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def flops_of_token(shape: Shape) -> float:
    """Operations of the language model's products for one token."""
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return 2 * shape.layers * (attention + 3 * shape.hidden * shape.ffn)


def flops_of(items: Sequence[Prepared], shape: Shape) -> float:
    """Operations of the products and of the attention of `items`, without any padding."""
    return sum(
        text_flops(item.n_tokens, shape) + sum(vision_flops(one, shape) for one in item.visuals) for item in items
    )


def text_flops(n_tokens: int, shape: Shape, *, before: int = 0) -> float:
    """The language model's for `n_tokens` that also see `before` others, whose keys are there (causal: half the
    square)."""
    attention = 2 * shape.layers * shape.heads * shape.head_dim
    return flops_of_token(shape) * n_tokens + attention * n_tokens * (n_tokens + 2 * before)


def vision_flops(visual: Visual, shape: Shape) -> float:
    """The vision tower's for one image or video."""
    merged = 4 * shape.v_hidden
    taps = min(3, shape.v_layers)
    patch = 2 * shape.v_layers * (4 * shape.v_hidden**2 + 2 * shape.v_hidden * shape.v_ffn) + 2 * 1536 * shape.v_hidden
    patch += 2 * (taps + 1) * (merged**2 + merged * shape.hidden) / 4
    frames, rows, columns = visual.grid_thw
    return frames * (patch * rows * columns + 4 * shape.v_layers * shape.v_hidden * (rows * columns) ** 2)
