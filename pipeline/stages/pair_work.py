"""The work of a rerank run: tiles of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.index.commits import FileEntry
from pipeline.index.parquet import open_parquet
from pipeline.rerank.ledger import open_ledger
from pipeline.rerank.outcomes import crashed_pairs
from pipeline.rerank.plan import RerankPlan
from pipeline.rerank.schema import TILES
from pipeline.rerank.tiles import Tile, pairs_in, split_tile
from pipeline.stages.chain import Chain
from pipeline.stages.work import Lost
from pipeline.stages.write_scores import write_scores
from pipeline.storage import Store

__all__ = ["PairWork"]


@dataclass(frozen=True, slots=True)
class PairWork:
    """See `work.Work`. What is lost is told in tiles, of only the pairs that are missing."""

    chain: Chain
    plan: RerankPlan
    store: Store

    @property
    def paths(self) -> Sequence[str]:
        """See `Work`."""
        return self.plan.work_paths

    @property
    def to_do(self) -> int:
        """See `Work`: in pairs."""
        return self.plan.counts.to_do

    def lost(self, paths: Sequence[str], committed: Sequence[FileEntry]) -> Lost | None:
        """See `Work`."""
        with open_ledger(self.store) as ledger:
            ledger.load_tiles(paths)
            ledger.load_outcomes((), committed)
            missing = ledger.missing()
        if not missing:
            return None
        tiles = [part for tile in self._tiles(paths) for part in split_tile(tile, missing, len(tile["pairs"]))]
        return Lost(pa.Table.from_pylist(tiles, TILES), len(missing))

    def again(self, lost: Lost, number: int, block_items: int) -> list[str]:
        """See `Work`."""
        tiles = [part for tile in lost.rows.to_pylist() for part in split_tile(tile, set(pairs_in(tile)), block_items)]
        path = f"_work/{self.plan.run_id}/pass-{number}.parquet"
        with self.store.open_output(path) as file:
            pq.write_table(pa.Table.from_pylist(tiles, TILES), file, row_group_size=1)
        return [path]

    def give_up(self, lost: Lost, detail: str) -> pa.Table:
        """See `Work`."""
        return write_scores(crashed_pairs(lost.rows.to_pylist(), detail), self.chain.write.settings)

    def _tiles(self, paths: Sequence[str]) -> Iterator[Tile]:
        for path in paths:
            with open_parquet(self.store, path) as parquet:
                for batch in parquet.iter_batches(batch_size=1):
                    yield from batch.to_pylist()
