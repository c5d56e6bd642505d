"""A score: the probability of `yes` against `no`, from the logit that the reranker gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["scores_of"]


def scores_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The sigmoids of `logits`, float64 of the same shape; NaN stays NaN."""
    # 1 / (1 + exp(-x)) would overflow, with a warning, for logits below about -709. NaN stands for no logit here.
    with np.errstate(invalid="ignore"):
        scores: NDArray[np.float64] = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    return scores
