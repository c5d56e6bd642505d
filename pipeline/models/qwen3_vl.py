"""Qwen3-VL as an encoder: packed micro-batches through the in-tree transformers classes, last-token pooling.

In: prepared items. Out: the final-RMSNorm state of each item's last token, float32, not normalised. Refused
(ConfigError): weights that do not fit the architecture, a device or attention that is not there, a model whose
first forward is not finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.errors import ConfigError
from pipeline.models.attention import check_attention
from pipeline.models.devices import pick_device
from pipeline.models.encoder import Encoded
from pipeline.models.engine import Engine
from pipeline.models.loading import load_stock
from pipeline.models.options import DTYPES, EncoderOptions
from pipeline.models.probe import picture_item
from pipeline.prefixes import Prefixed, split_prefixes
from pipeline.types import Prepared

if TYPE_CHECKING:
    from pipeline.checkpoint import Checkpoint
    from pipeline.config import ModelConfig

__all__ = ["Qwen3VLEncoder", "load_encoder"]

LEAST_SAVED_TOKENS = 512
LEAST_SAVED_SHARE = 0.03
"""A shared prefix costs a forward of its own and a second attention call a layer. On a CPU it gained from two items on
(1.02× there, 1.04× at 6 % saved, 1.10× at 13 %, 1.54× at 34 %: measured); on a GPU the forward is worth about 330
tokens, and weighing the two answers about 2 % of a batch (calculated)."""


def load_encoder(checkpoint: Checkpoint, model: ModelConfig, *, device: str = "auto") -> Qwen3VLEncoder:
    """Load `checkpoint` as `model` says onto `device` (`auto`: the first GPU, else the CPU) and probe it once.

    Raises ConfigError if the weights do not fit, the device or attention is missing, or the probe fails.
    """
    target, options = pick_device(device), EncoderOptions.of(model)
    check_attention(options.attention, target, DTYPES[model.dtype])
    stock = load_stock(checkpoint, model.dtype)
    try:
        encoder = Qwen3VLEncoder(stock.to(target), options)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the weights of {checkpoint.folder} do not fit into {target}, or nothing else beside them; use a larger "
            "GPU or the smaller model"
        ) from None
    encoder.check_contract()
    return encoder


class Qwen3VLEncoder(Engine):
    """A loaded model. Implements `pipeline.models.encoder.Encoder`."""

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        """Raw vectors of `items`, float32[n, hidden_dim], in the order given.

        An item that alone needs more memory than the device has is in `too_large`; the others are not touched by it.
        """
        if not items:
            return Encoded(np.empty((0, self.hidden_dim), np.float32))
        return self.run(self.parts(items))

    def parts(self, items: Sequence[Prepared]) -> Prefixed:
        """`items` as `encode` computes them: what enough of them begin with in common taken out, where that pays."""
        if not self._shares_prefixes:
            return Prefixed.whole(items)
        return split_prefixes(items, self.pad_ids, least_tokens=LEAST_SAVED_TOKENS, least_share=LEAST_SAVED_SHARE)

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
