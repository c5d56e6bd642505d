"""The work of a run, as its passes go through it: a work list, and what of it is still missing.

What an item is, the job knows: of an embed run an item of the manifest, of a rerank run a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipeline.index.commits import FileEntry
from pipeline.stages.chain import Chain

__all__ = ["Lost", "Work"]


@dataclass(frozen=True, slots=True)
class Lost:
    """Work without an outcome: `rows` as the job has them, `items` in number."""

    rows: pa.Table
    items: int


class Work(Protocol):
    """A job's work list. Paths are relative to the output."""

    @property
    def chain(self) -> Chain:
        """The stages it goes through."""

    @property
    def paths(self) -> Sequence[str]:
        """The files of the whole work list."""

    @property
    def to_do(self) -> int:
        """Items in it."""

    def lost(self, paths: Sequence[str], committed: Sequence[FileEntry]) -> Lost | None:
        """What of the work in `paths` has no outcome in the parts `committed`; None if nothing has."""

    def again(self, lost: Lost, number: int, block_items: int) -> list[str]:
        """Write `lost` as the work list of pass `number`, whose tasks are of `block_items` items; its paths."""

    def give_up(self, lost: Lost, detail: str) -> pa.Table:
        """Write a `WORKER_CRASHED` reject for each of `lost`; returns `write.RECEIPT` rows."""
