"""The tally of a run: what its receipts add up to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Sums over receipts (`stages.write.RECEIPT` rows as dicts). Seconds add up over all actors of a stage."""

    items: int = 0
    vectors: int = 0
    encoded: int = 0
    text_tokens: int = 0
    visual_tokens: int = 0
    padded_tokens: float = 0.0
    forwards: float = 0.0
    filled: float = 0.0
    prepare_s: float = 0.0
    encode_s: float = 0.0
    write_s: float = 0.0
    rejects: Counter[str] = field(default_factory=Counter)

    def add(self, receipt: dict[str, Any]) -> None:
        """Count one receipt."""
        self.items += receipt["items"]
        self.vectors += receipt["vectors"]
        self.encoded += receipt["encoded"]
        self.text_tokens += receipt["text_tokens"]
        self.visual_tokens += receipt["visual_tokens"]
        self.padded_tokens += receipt["padded_tokens"]
        self.forwards += receipt["forwards"]
        self.filled += receipt["filled"]
        self.prepare_s += receipt["prepare_s"]
        self.encode_s += receipt["encode_s"]
        self.write_s += receipt["write_s"]
        self.rejects.update({row["code"]: row["n"] for row in receipt["rejects"]})

    @property
    def packing_efficiency(self) -> float | None:
        """How full the forwards were of what they may hold, on average; None without any."""
        return self.filled / self.forwards if self.forwards else None

    @property
    def tokens(self) -> int:
        """Tokens encoded, without padding."""
        return self.text_tokens + self.visual_tokens
