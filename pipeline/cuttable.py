"""Token ids whose user text may lose its end while all around it stays.

In: ids of a prompt, or of one half of it. Out: the same, or shorter by exactly as many tokens as asked. Nothing of a
user's is refused; asking for more tokens than the text has is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CuttableIds"]


@dataclass(frozen=True, slots=True)
class CuttableIds:
    """`whole`: int32[n], the ids uncut; `text_tokens` of them may be taken from the end of the user's text.

    `apart`: int32[m], the same with the text's end tokenised apart from the `tail_tokens` ids that follow it, since a
    token may span both (a full stop and the line break behind it) and a cut must keep the latter.
    """

    whole: NDArray[np.int32]
    apart: NDArray[np.int32]
    tail_tokens: int
    text_tokens: int

    @property
    def n_tokens(self) -> int:
        """Length uncut."""
        return len(self.whole)

    @property
    def fixed_tokens(self) -> int:
        """What no cut takes away."""
        return self.n_tokens - self.text_tokens

    def without(self, n_tokens: int) -> NDArray[np.int32]:
        """int32[n - `n_tokens`]: the text's last `n_tokens` tokens left out."""
        if not n_tokens:
            return self.whole
        assert n_tokens <= self.text_tokens, "a cut never reaches what is not the user's text"
        tail_start = len(self.apart) - self.tail_tokens
        kept = min(self.n_tokens - n_tokens - self.tail_tokens, tail_start)
        return np.concatenate([self.apart[:kept], self.apart[tail_start:]])
