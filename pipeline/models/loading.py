"""Loading: a checkpoint's weights into the in-tree transformers classes, or a clear refusal.

In: a checkpoint and a dtype. Out: the stock model on the CPU, in eval mode. Refused (ConfigError): weights that are
missing, have another shape or cannot be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLModel
from transformers.utils import logging as transformers_logging

from pipeline.errors import ConfigError
from pipeline.models.options import DTYPES
from pipeline.redaction import redact

if TYPE_CHECKING:
    from pipeline.checkpoint import Checkpoint

__all__ = ["first_line", "load_stock", "load_stock_reranker"]

YES_ID, NO_ID = 9693, 2152
"""Rows of the vocabulary that the reranker answers with (`yes`, `no`, in small letters)."""


def load_stock(checkpoint: Checkpoint, dtype: str) -> Qwen3VLModel:
    """The transformers model with `checkpoint`'s weights in `dtype` on the CPU, exactly as the library makes it.

    Raises ConfigError if a weight is missing or has another shape.
    """
    return _loaded(Qwen3VLModel, checkpoint, dtype)


def load_stock_reranker(checkpoint: Checkpoint, dtype: str) -> tuple[Qwen3VLModel, Tensor]:
    """The same of a reranker, and its row of `yes` minus its row of `no` [hidden_dim], in `dtype`."""
    whole = _loaded(Qwen3VLForConditionalGeneration, checkpoint, dtype)
    rows = whole.lm_head.weight
    # A copy: the other 150,000 rows are not needed any more.
    return whole.model, (rows[YES_ID] - rows[NO_ID]).clone()


def _loaded(kind: Any, checkpoint: Checkpoint, dtype: str) -> Any:  # noqa: ANN401 - transformers' classes have no types
    transformers_logging.disable_progress_bar()
    try:
        stock, info = kind.from_pretrained(
            checkpoint.folder,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, ImportError, SafetensorError) as error:
        raise ConfigError(f"cannot load the model in {checkpoint.folder}: {first_line(error)}") from None
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise ConfigError(
            f"the weights in {checkpoint.folder} do not fit the architecture: {len(lost)} tensors are missing or "
            f"have another shape ({', '.join(lost[:3])} …); download the model again"
        )
    return stock.eval().requires_grad_(False)


def first_line(error: Exception) -> str:
    """The first line of what `error` says without secrets, at most 300 characters."""
    return redact(str(error)).strip().split("\n", 1)[0][:300]
