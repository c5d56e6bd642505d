"""The engine: a stock Qwen3-VL on a device, run in packed micro-batches. What is made of pooled states is its owner's.

In: prepared items, in parts where they share a prefix. Out: `Encoded`, one row an item. Runs with torch ≥ 2.11 and
transformers ≥ 5.10, and where pydantic is not installed.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import Qwen3VLModel

from pipeline.heap import keep_freed_memory
from pipeline.models.attention import choose_attention, sums_cost_memory
from pipeline.models.batch import Sender
from pipeline.models.blocks import blocks_of
from pipeline.models.collate import VisionShape, collate
from pipeline.models.devices import free_bytes, has_room
from pipeline.models.encoder import Encoded
from pipeline.models.faults import memory_problem, noticing_loss
from pipeline.models.memory import CPU_BUDGET, find_budget
from pipeline.models.options import EncoderOptions
from pipeline.models.packed import PackedModel
from pipeline.models.patches import LinearPatchEmbed
from pipeline.models.pieces import Pieces, fused_pieces, stock_pieces
from pipeline.models.probe import filling_items
from pipeline.models.results import Results
from pipeline.models.warm_up import PieceSizes
from pipeline.models.window_run import WindowRun
from pipeline.packing import Budget
from pipeline.prefixes import Prefixed
from pipeline.types import Prepared

__all__ = ["Engine"]

FLOAT32_BYTES = 4

_log = logging.getLogger("lakevec")


class Engine:
    """Threads may share it: one window's forwards are launched at a time, and while the device still computes them, the
    next window is read, packed and launched behind them."""

    def __init__(
        self,
        stock: Qwen3VLModel,
        options: EncoderOptions,
        *,
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Take over `stock`, on whatever device it lies; its patch embedding becomes a matrix product.

        `head`: pooled states [n, hidden_dim] to float32 logits [n, 1]; None: they are the rows themselves.
        """
        if not isinstance(stock.visual.patch_embed, LinearPatchEmbed):
            stock.visual.patch_embed = LinearPatchEmbed(stock.visual.patch_embed.proj)
        self._stock = stock
        if next(stock.parameters()).device.type == "cpu":
            keep_freed_memory()
        self._options = options
        self._device = next(stock.parameters()).device
        self._dtype = next(stock.parameters()).dtype
        self._head = head
        self._sender = Sender(self._device)
        self._shape = _vision_shape(stock)
        # On a CPU a second thread would only take the cores that compute.
        self._helper = ThreadPoolExecutor(1, "collate") if self._device.type == "cuda" else None
        self._launching = threading.Lock()
        name, attention = choose_attention(
            options.attention, self._device, self._dtype, invariant=options.deterministic
        )
        # The budget knows of no squares: behind a prefix a long item would be lost that fits by itself.
        self._shares_prefixes = options.shares_prefixes and not sums_cost_memory(name, self._device)
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

    @property
    def pad_ids(self) -> tuple[int, ...]:
        """Ids that stand for visual tokens."""
        return self._shape.pad_ids

    def run(self, window: Prefixed) -> Encoded:
        """The rows of `window`'s items, in order. An item that alone needs more memory than the device has is in
        `too_large`; the others are not touched by it. No two items share anything if the engine is deterministic.

        A row that is not finite is computed again, alone, at last in float32 where there is room for a copy of the
        weights. Raises DeviceLostError if the device fails for good.
        """
        with noticing_loss(self._device):
            encoded = self._run(window, alone=self._options.deterministic)
            return self._second_try(window, encoded)

    def _run(self, window: Prefixed, *, alone: bool) -> Encoded:
        blocks = blocks_of((*window.items, *window.prefixes), share=not alone)
        run = WindowRun(
            window,
            blocks,
            self._budget,
            model=self._model,
            sender=self._sender,
            shape=self._shape,
            helper=self._helper,
            results=self._results(len(window.items)),
            head=self._head or (lambda states: states),
            single=alone,
        )
        with self._launching:
            self._budget = run.launch(self._budget)
        return run.finish()

    def _second_try(self, window: Prefixed, encoded: Encoded) -> Encoded:
        """What is not finite once more: without company, which may be where it came from, then in float32."""
        bad = encoded.not_finite
        if bad and len(window.items) > 1 and not self._options.deterministic:
            alone = Prefixed.whole([window.joined(index) for index in bad])
            encoded = encoded.amended(bad, self._run(alone, alone=True))
            bad = encoded.not_finite
        if bad and self._dtype != torch.float32:
            wide = self._in_float32([window.joined(index) for index in bad])
            if wide is not None:
                encoded = encoded.amended(bad, wide)
        return encoded

    def _in_float32(self, items: Sequence[Prepared]) -> Encoded | None:
        """`items` one by one through a copy of the model in float32; None where there is no room for one."""
        with self._launching:
            weights = sum(weight.numel() for weight in self._stock.parameters())
            if not has_room(self._device, weights * (torch.finfo(self._dtype).bits // 8 + FLOAT32_BYTES)):
                return None
            options = EncoderOptions(
                token_budget=max(item.n_tokens for item in items), deterministic=True, strict_rounding=True
            )
            try:
                return Engine(copy.deepcopy(self._stock).float(), options, head=self._head)._run(
                    Prefixed.whole(items), alone=True
                )
            except (RuntimeError, MemoryError) as error:
                _log.warning("no second try in float32: %s", memory_problem(error))
                return None

    def _results(self, n_items: int) -> Results:
        if self._head is None:
            return Results(n_items, self.hidden_dim, self._device, self._dtype)
        return Results(n_items, 1, self._device, torch.float32)

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
        """What a forward that fills `budget` with pictures takes beside the weights, a wave of prefixes included."""
        items = filling_items(self._stock.config, budget.tokens)
        batch = collate(items, blocks_of(items, share=False), (), self._shape)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._model(self._sender.send(batch), {})
        torch.cuda.synchronize(self._device)
        peak = int(torch.cuda.max_memory_allocated(self._device) - before)
        return peak + budget.tokens * self._model.prefix_bytes_per_token


def _vision_shape(stock: Qwen3VLModel) -> VisionShape:
    config = stock.config
    side = round(config.vision_config.num_position_embeddings**0.5)
    return VisionShape((config.image_token_id, config.video_token_id), side)
