"""Micro-batches: which items share a forward, and what to do when one is too large for the device. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["auto_token_budget", "micro_batches", "run_splitting"]

Item = TypeVar("Item")
Result = TypeVar("Result")

CPU_TOKENS = 2_048
"""On a CPU a larger batch is no faster, for there are no kernel launches to hide, and only takes memory."""

GPU_TOKENS = 16_384
"""From here on a forward of the 2B model takes about 80 ms on a current GPU: launches are hidden, and a larger
batch would only pad more."""

BYTES_PER_TOKEN_PER_DIM = 160
"""Transient bytes of one token for each hidden dimension, in 16 bits: 36 kB of gated MLP, 64 kB of float32 norms
and residuals and four vision patches of about 50 kB make 300 kB at 2,048 dimensions; the larger model is leaner."""


def auto_token_budget(*, on_gpu: bool, free_bytes: int, hidden_dim: int, element_bytes: int) -> int:
    """Tokens of one forward, padding included, for `model.token_budget: auto`.

    `free_bytes`: device memory left beside the weights, half of which activations may take (the allocator
    fragments, and attention needs workspace). Never below 1.
    """
    if not on_gpu:
        return CPU_TOKENS
    per_token = BYTES_PER_TOKEN_PER_DIM * hidden_dim * element_bytes // 2
    return max(1, min(GPU_TOKENS, free_bytes // 2 // per_token))


def micro_batches(lengths: Sequence[int], token_budget: int, *, single: bool) -> list[list[int]]:
    """Indices of `lengths` (tokens) in groups whose padded size, longest × count, is at most `token_budget`.

    Sorted by length, longest first: neighbours pad each other least, and a batch too large for the device shows
    at once. An item longer than the budget goes alone, as every item does if `single`.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if not single and batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def run_splitting(
    items: Sequence[Item],
    run: Callable[[Sequence[Item]], list[Result]],
    too_large: type[Exception],
    release: Callable[[], None],
) -> list[Result]:
    """`run(items)`, halving `items` for as long as it raises `too_large`; a single item's error is raised.

    `release` is called before every retry, to give back what the failed attempt still holds.
    """
    try:
        return run(items)
    except too_large:
        if len(items) == 1:
            raise
    # Outside the except clause: the traceback would keep the failed attempt's tensors alive.
    release()
    middle = len(items) // 2
    first = run_splitting(items[:middle], run, too_large, release)
    return first + run_splitting(items[middle:], run, too_large, release)
