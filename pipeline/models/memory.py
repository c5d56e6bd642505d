"""How much one forward may hold on a GPU: found by trying, on the card itself, when the model is loaded.

In: a function that runs a full forward and says how much memory it took. Out: a `Budget`. Nothing is refused: where not
even one token fits, the first real item will say so.

The model behind it: the peak of a forward beside the weights grows in proportion to its tokens, four patches each
included, for attention keeps no square of them.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.packing import Budget

__all__ = ["CPU_BUDGET", "GPU_TOKENS", "find_budget"]

CPU_BUDGET = Budget(tokens=2_048, patches=2_048)
"""On a CPU a larger batch is no faster, for there are no kernel launches to hide, and its tensors outgrow what the C
library reuses: 2,048 patches' queries, keys and values take 25 MB (see `rows`)."""

GPU_TOKENS = 16_384
"""From here on a forward of the 2B model takes about 80 ms on a current GPU (calculated): launches are hidden."""

TRIAL_TOKENS = 1_024
"""A first forward so small that it fits wherever the weights did, and large enough to outweigh fixed workspace."""

SHARE = 0.8
"""Of the free memory that a forward may take: the allocator fragments, and the next batch arrives meanwhile."""


def find_budget(peak_bytes: Callable[[Budget], int], free_bytes: int, too_large: type[Exception]) -> Budget:
    """The budget of a device with `free_bytes` beside the weights: at most `GPU_TOKENS`, at least 1.

    `peak_bytes(budget)` runs a forward that fills `budget` and returns what it took; it may raise `too_large`. It is
    called at most 2 + log2(GPU_TOKENS) times, twice where the first forward foretells the second.
    """
    tokens = TRIAL_TOKENS
    try:
        per_token = max(1, peak_bytes(Budget.of_tokens(tokens)) // tokens)
        tokens = max(1, min(GPU_TOKENS, int(free_bytes * SHARE) // per_token))
    except too_large:
        tokens //= 2
    while tokens > 1:
        try:
            if peak_bytes(Budget.of_tokens(tokens)) <= free_bytes * SHARE or tokens <= TRIAL_TOKENS:
                break
        except too_large:
            pass
        tokens //= 2
    return Budget.of_tokens(tokens)
