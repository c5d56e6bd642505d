"""From rows of a manifest to candidates: what stands in the work list if the comparison finds that there is work.

In: a `Piece` of the manifest. Out: `Candidates`. Refused with ManifestError: what `Batcher.batch` refuses. Raises
IncompleteError where a store fails too many questions about objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.collector import resting_collector
from pipeline.config import InputsConfig
from pipeline.fingerprint import item_fingerprint
from pipeline.identity import Identified, Identifier
from pipeline.index.carried import CarriedDigests
from pipeline.manifest.batches import Batcher, ManifestBatch
from pipeline.manifest.source import Piece
from pipeline.manifest.work import to_work_table
from pipeline.policy import FetchPolicy
from pipeline.template import resolve_instruction
from pipeline.types import WorkItem

__all__ = ["Candidates", "Converter", "Recipe"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what a piece becomes, small enough to travel; `compute` is the compute fingerprint."""

    batcher: Batcher
    policy: FetchPolicy
    inputs: InputsConfig
    compute: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """A piece's rows: `table` of `schema.work_schema`; `carried` (uint64) and `shared` as in `schema.ITEMS`.

    `asked`: whether a store had to be asked about any of its files.
    """

    table: pa.Table
    carried: pa.ChunkedArray
    shared: pa.Array
    asked: bool


class Converter:
    """Converts pieces as `recipe` says, with the identities that `identifier` finds."""

    def __init__(self, recipe: Recipe, identifier: Identifier) -> None:
        self._recipe = recipe
        self._identifier = identifier
        self._digests = CarriedDigests(recipe.batcher.carry)

    def convert(self, piece: Piece) -> Candidates:
        """What `piece` becomes. Raises ManifestError, IncompleteError."""
        with resting_collector():
            batch = self._recipe.batcher.batch(piece)
            if not self._identifier.asks(batch.rows):
                return self._converted(batch, asked=False)
        # Not while stores are asked: that takes long, and their drivers leave cycles behind.
        return self._converted(batch, asked=True)

    def convert_unasked(self, piece: Piece) -> Candidates | None:
        """As `convert`, but None where a store would have to be asked."""
        with resting_collector():
            batch = self._recipe.batcher.batch(piece)
            return None if self._identifier.asks(batch.rows) else self._converted(batch, asked=False)

    def _converted(self, batch: ManifestBatch, *, asked: bool) -> Candidates:
        inputs = self._recipe.inputs
        identified = list(self._identifier.identify(batch.rows))
        table = to_work_table(_work_items(batch, identified, self._recipe.compute, inputs.instruction), batch.carry)
        shared = pa.array([inputs.dedupe and each.content_known for each in identified], pa.bool_())
        return Candidates(table, self._carried(batch), shared, asked)

    def _carried(self, batch: ManifestBatch) -> pa.ChunkedArray:
        if self._recipe.batcher.carry:
            return self._digests.of_table(batch.carry)
        return pa.chunked_array([pa.nulls(len(batch.rows), pa.uint64())])


def _work_items(
    batch: ManifestBatch, identified: Sequence[Identified], compute: str, default: str | None
) -> list[WorkItem]:
    usual = resolve_instruction(None, default)
    items: list[WorkItem] = []
    for row, known in zip(batch.rows, identified, strict=True):
        fingerprint = item_fingerprint(
            compute,
            instruction=usual if row.instruction is None else resolve_instruction(row.instruction, default),
            fps=row.fps,
            max_frames=row.max_frames,
            texts=row.texts,
            media=known.identities,
        )
        items.append(
            WorkItem(
                row.id, row.texts, known.media, row.instruction, row.fps, row.max_frames, fingerprint, batch.file,
                row.row, 0,
            )
        )  # fmt: skip
    return items
