"""A broken promise of an index, as `lakevec verify` tells it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Violation"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken invariant: the `rule`, the file or place, and what was found there."""

    rule: str
    where: str
    detail: str
