"""Qwen3-VL as an encoder: packed micro-batches through the in-tree transformers classes, last-token pooling.

In: prepared items. Out: the final-RMSNorm state of each item's last token, float32, not normalised. Refused
(ConfigError): weights that do not fit the architecture, a device or attention that is not there, a model whose
first forward is not finite. Runs with torch ≥ 2.11 and transformers ≥ 5.10, and where pydantic is not installed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import Qwen3VLModel

from pipeline.errors import ConfigError
from pipeline.heap import keep_freed_memory
from pipeline.models.attention import choose_attention
from pipeline.models.batch import Sender
from pipeline.models.blocks import blocks_of
from pipeline.models.collate import VisionShape, collate
from pipeline.models.devices import free_bytes, pick_device
from pipeline.models.encoder import Encoded
from pipeline.models.loading import load_stock
from pipeline.models.memory import CPU_BUDGET, find_budget
from pipeline.models.options import DTYPES, EncoderOptions
from pipeline.models.packed import PackedModel
from pipeline.models.patches import LinearPatchEmbed
from pipeline.models.pieces import Pieces, fused_pieces, stock_pieces
from pipeline.models.probe import filling_items, picture_item
from pipeline.models.warm_up import PieceSizes
from pipeline.models.window_run import WindowRun
from pipeline.packing import Budget
from pipeline.types import Prepared

if TYPE_CHECKING:
    from pipeline.checkpoint import Checkpoint
    from pipeline.config import ModelConfig

__all__ = ["Qwen3VLEncoder", "load_encoder"]

_log = logging.getLogger("lakevec")


def load_encoder(checkpoint: Checkpoint, model: ModelConfig, *, device: str = "auto") -> Qwen3VLEncoder:
    """Load `checkpoint` as `model` says onto `device` (`auto`: the first GPU, else the CPU) and probe it once.

    Raises ConfigError if the weights do not fit, the device or attention is missing, or the probe fails.
    """
    target, options = pick_device(device), EncoderOptions.of(model)
    choose_attention(options.attention, target, DTYPES[model.dtype])
    stock = load_stock(checkpoint, model.dtype)
    try:
        stock = stock.to(target)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the weights of {checkpoint.folder} do not fit into {target}; use a larger GPU or the smaller model"
        ) from None
    encoder = Qwen3VLEncoder(stock, options)
    encoder.check_contract()
    return encoder


class Qwen3VLEncoder:
    """A loaded model. Implements `pipeline.models.encoder.Encoder`.

    Threads may share it: one window's forwards are launched at a time, and while the device still computes them, the
    next window is read, packed and launched behind them.
    """

    def __init__(self, stock: Qwen3VLModel, options: EncoderOptions) -> None:
        """Take over `stock`, on whatever device it lies; its patch embedding becomes a matrix product."""
        if not isinstance(stock.visual.patch_embed, LinearPatchEmbed):
            stock.visual.patch_embed = LinearPatchEmbed(stock.visual.patch_embed.proj)
        self._stock = stock
        if next(stock.parameters()).device.type == "cpu":
            keep_freed_memory()
        self._deterministic = options.deterministic
        self._device = next(stock.parameters()).device
        self._dtype = next(stock.parameters()).dtype
        self._sender = Sender(self._device)
        self._shape = _vision_shape(stock)
        # On a CPU a second thread would only take the cores that compute.
        self._helper = ThreadPoolExecutor(1, "collate") if self._device.type == "cuda" else None
        self._launching = threading.Lock()
        name, attention = choose_attention(
            options.attention, self._device, self._dtype, invariant=options.deterministic
        )
        self._model = PackedModel(stock, attention, self._pieces(options), shortcut=options.shortcut)
        self._budget = self._find_budget(options)
        _log.info(
            "encoder on %s: %s, attention %s, at most %d tokens and %d patches a forward",
            self._device, self.dtype, name, self._budget.tokens, self._budget.patches,
        )  # fmt: skip

    @property
    def hidden_dim(self) -> int:
        """Length of a vector before any MRL cut."""
        return int(self._stock.config.text_config.hidden_size)

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`."""
        return str(self._device)

    @property
    def dtype(self) -> str:
        """The dtype of weights and activations, as `model.dtype` spells it."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def token_budget(self) -> int:
        """Tokens of one forward; only an item longer than that passes it, alone. Out-of-memory errors lower it."""
        return self._budget.tokens

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        """Raw vectors of `items`, float32[n, hidden_dim], in the order given.

        An item that alone needs more memory than the device has is in `too_large`; the others are not touched by it.
        """
        if not items:
            return Encoded(np.empty((0, self.hidden_dim), np.float32))
        blocks = blocks_of(items, share=not self._deterministic)
        run = WindowRun(items, blocks, self._model, self._sender, self._shape, self._helper)
        with self._launching:
            self._budget = run.launch(self._budget, single=self._deterministic)
        return run.finish()

    def check_contract(self) -> None:
        """Run one tiny text and picture. Raises ConfigError unless it fits, and is finite and of `hidden_dim`."""
        encoded = self.encode([picture_item(self._stock.config)])
        if encoded.too_large:
            raise ConfigError(
                f"not even a tiny picture fits into {self._device} beside the weights ({encoded.too_large[0][1]}); "
                "use a larger GPU or the smaller model"
            )
        vectors = encoded.vectors
        if vectors.shape != (1, self.hidden_dim) or not np.isfinite(vectors).all():
            raise ConfigError(
                f"the model's first forward in {self.dtype} on {self._device} is not finite: the weights are damaged, "
                "or the dtype overflows (try model.dtype: bfloat16)"
            )

    def _pieces(self, options: EncoderOptions) -> Pieces:
        if self._device.type != "cuda" or options.strict_rounding:
            return stock_pieces()
        text, vision = self._stock.config.text_config, self._stock.config.vision_config
        head_dim = int(self._stock.language_model.layers[0].self_attn.head_dim)
        sizes = PieceSizes(
            hidden=text.hidden_size,
            ffn=text.intermediate_size,
            q_heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            vision_heads=vision.num_heads,
            vision_head_dim=vision.hidden_size // vision.num_heads,
        )
        return fused_pieces(self._device, self._dtype, sizes)

    def _find_budget(self, options: EncoderOptions) -> Budget:
        if options.token_budget is not None:
            return Budget.of_tokens(options.token_budget)
        if self._device.type != "cuda":
            return CPU_BUDGET
        started = time.monotonic()
        budget = find_budget(self._peak_bytes, free_bytes(self._device), torch.OutOfMemoryError)
        torch.cuda.empty_cache()
        _log.info("model.token_budget auto: %d tokens, found in %.1f s", budget.tokens, time.monotonic() - started)
        return budget

    def _peak_bytes(self, budget: Budget) -> int:
        """What a forward that fills `budget` with pictures takes beside the weights."""
        items = filling_items(self._stock.config, budget.tokens)
        batch = collate(items, blocks_of(items, share=False), (), self._shape)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._model(self._sender.send(batch), {})
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device) - before)


def _vision_shape(stock: Qwen3VLModel) -> VisionShape:
    config = stock.config
    side = round(config.vision_config.num_position_embeddings**0.5)
    return VisionShape((config.image_token_id, config.video_token_id), side)
