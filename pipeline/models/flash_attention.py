"""The flash kernels over packed sequences: torch's own (`varlen_attn`) and the package flash-attn's."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from pipeline.models.segments import Segments

__all__ = ["FlashAttention", "VarlenAttention", "varlen_options"]


class VarlenAttention:
    """Torch's `varlen_attn`, in whichever version. An `Attention`."""

    def __init__(self, varlen: Any, *, invariant: bool) -> None:  # noqa: ANN401 - a function whose signature differs
        self._varlen = varlen
        self._parameters = inspect.signature(varlen).parameters
        self._invariant = invariant

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        out: Tensor = self._attend(q, k, v, of_q, of_k, causal)
        return out

    def with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        from torch.nn.attention.varlen import AuxRequest

        out, lse = self._attend(q, k, v, of_q, of_k, causal, return_aux=AuxRequest(lse=True))
        return out, lse.transpose(0, 1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, causal: bool, **more: object
    ) -> Any:  # noqa: ANN401 - one tensor, or two
        grouped = q.shape[1] != k.shape[1]
        options = varlen_options(self._parameters, causal=causal, gqa=grouped, invariant=self._invariant)
        return self._varlen(q, k, v, of_q.cu, of_k.cu, of_q.longest, of_k.longest, **options, **more)


def varlen_options(parameters: object, *, causal: bool, gqa: bool, invariant: bool) -> dict[str, Any]:
    """Keyword arguments that say this to a `varlen_attn` with such `parameters` (names of its signature).

    Torch 2.10 has `is_causal`, later ones `window_size`; `enable_gqa` and `num_splits` came later still.
    """
    names = set(parameters)  # type: ignore[call-overload]
    options: dict[str, Any] = {}
    if causal:
        options |= {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}
    if gqa and "enable_gqa" in names:
        options["enable_gqa"] = True
    if invariant and "num_splits" in names:
        options["num_splits"] = 1
    return options


class FlashAttention:
    """`flash_attn_varlen_func` of the package flash-attn. An `Attention`."""

    def __init__(self, flash: Any) -> None:  # noqa: ANN401 - an optional package without types
        self._flash = flash

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool) -> Tensor:
        """See `Attention`."""
        out: Tensor = self._flash(q, k, v, of_q.cu, of_k.cu, of_q.longest, of_k.longest, causal=causal)
        return out

    def with_lse(
        self, q: Tensor, k: Tensor, v: Tensor, of_q: Segments, of_k: Segments, *, causal: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Attention`."""
        bounds = (of_q.cu, of_k.cu, of_q.longest, of_k.longest)
        out, lse, _ = self._flash(q, k, v, *bounds, causal=causal, return_attn_probs=True)
        return out, lse.transpose(0, 1)
