"""What an encoder is told about how to run: the part of `model.*` that is not about where the weights are.

A plain class beside the config's: the model layer also runs where pydantic is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pipeline.config import ModelConfig

__all__ = ["DTYPES", "EncoderOptions"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True)
class EncoderOptions:
    """`attention`, `token_budget` (None: found on the device), `deterministic`, `strict_rounding` as in `ModelConfig`.

    `shortcut`: compute the last layer's outputs for pooled tokens only. `prefixes`: compute what items begin with in
    common once.
    """

    attention: str = "auto"
    token_budget: int | None = None
    deterministic: bool = False
    strict_rounding: bool = False
    shortcut: bool = True
    prefixes: bool = True

    @property
    def shares_prefixes(self) -> bool:
        """Whether what items begin with in common is computed once: not where the rounding is promised."""
        return self.prefixes and not (self.deterministic or self.strict_rounding)

    @classmethod
    def of(cls, model: ModelConfig) -> EncoderOptions:
        """The options that `model` states."""
        return cls(
            attention=model.attention,
            token_budget=model.token_budget if isinstance(model.token_budget, int) else None,
            deterministic=model.deterministic,
            strict_rounding=model.strict_rounding,
        )
