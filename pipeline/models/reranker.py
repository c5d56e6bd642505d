"""Qwen3-VL as a reranker: the same packed engine, and one number a pair: how much more `yes` than `no`.

In: pairs in two parts, of which those of one query share the first. Out: the logit of each, float32. Refused
(ConfigError): as by the encoder.

The official code makes a linear layer of `lm_head[yes] − lm_head[no]` (subtracted in the weights' dtype) and applies it
to the final-RMSNorm state of the last position; the score is its sigmoid. Here the product is in float32: in 16 bits
the sigmoid is exactly 1 from a logit of about 6.3 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLModel

from pipeline.errors import ConfigError
from pipeline.models.attention import check_attention
from pipeline.models.devices import pick_device
from pipeline.models.encoder import Encoded
from pipeline.models.engine import Engine
from pipeline.models.loading import load_stock_reranker
from pipeline.models.options import DTYPES, EncoderOptions
from pipeline.models.probe import picture_item
from pipeline.prefixes import Prefixed
from pipeline.rerank.pair import PreparedPair, join, prefixed

if TYPE_CHECKING:
    from pipeline.checkpoint import Checkpoint
    from pipeline.config import ModelConfig

__all__ = ["Qwen3VLReranker", "load_reranker"]


def load_reranker(checkpoint: Checkpoint, model: ModelConfig, *, device: str = "auto") -> Qwen3VLReranker:
    """Load `checkpoint` as `model` says onto `device` (`auto`: the first GPU, else the CPU) and probe it once.

    Raises ConfigError if the weights do not fit, the device or attention is missing, or the probe fails.
    """
    target, options = pick_device(device), EncoderOptions.of(model)
    check_attention(options.attention, target, DTYPES[model.dtype])
    stock, direction = load_stock_reranker(checkpoint, model.dtype)
    try:
        reranker = Qwen3VLReranker(stock.to(target), direction.to(target), options)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the weights of {checkpoint.folder} do not fit into {target}, or nothing else beside them; use a larger "
            "GPU or the smaller model"
        ) from None
    reranker.check_contract()
    return reranker


class Qwen3VLReranker(Engine):
    """A loaded model. Threads may share it."""

    def __init__(self, stock: Qwen3VLModel, direction: Tensor, options: EncoderOptions) -> None:
        """`direction` [hidden_dim]: the row of `yes` minus that of `no`."""
        wide = direction.float()

        def head(states: Tensor) -> Tensor:
            return (states.float() @ wide)[:, None]

        super().__init__(stock, options, head=head)

    def score(self, pairs: Sequence[PreparedPair]) -> Encoded:
        """The logits of `pairs`, float32[n, 1], in the order given; pairs of one prefix share it.

        A pair that alone needs more memory than the device has is in `too_large`; the others are not touched by it.
        """
        if not pairs:
            return Encoded(np.empty((0, 1), np.float32))
        if not self._shares_prefixes:
            return self.run(Prefixed.whole([join(pair) for pair in pairs]))
        return self.run(prefixed(pairs))

    def check_contract(self) -> None:
        """Score one tiny picture. Raises ConfigError unless it fits and is finite."""
        config: Any = self._stock.config
        encoded = self.run(Prefixed.whole([picture_item(config)]))
        if encoded.too_large:
            raise ConfigError(
                f"not even a tiny picture fits into {self._device} beside the weights ({encoded.too_large[0][1]}); "
                "use a larger GPU or the smaller model"
            )
        if not np.isfinite(encoded.vectors).all():
            raise ConfigError(
                f"the model's first forward in {self.dtype} on {self._device} is not finite: the weights are damaged, "
                "or the dtype overflows (try model.dtype: bfloat16)"
            )
