"""The work of an embed run: items of the manifest, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.index.commits import FileEntry
from pipeline.outcomes import crashed_outcomes
from pipeline.plan import Plan
from pipeline.stages.chain import Chain
from pipeline.stages.reconcile import lost_work, write_work
from pipeline.stages.work import Lost
from pipeline.stages.write import WriteSettings, write_outcomes
from pipeline.storage import Store

__all__ = ["EmbedWork"]


@dataclass(frozen=True, slots=True)
class EmbedWork:
    """See `work.Work`."""

    chain: Chain
    plan: Plan
    store: Store

    @property
    def paths(self) -> Sequence[str]:
        """See `Work`."""
        return self.plan.work_paths

    @property
    def to_do(self) -> int:
        """See `Work`."""
        return self.plan.counts.to_do

    def lost(self, paths: Sequence[str], committed: Sequence[FileEntry]) -> Lost | None:
        """See `Work`."""
        rows = lost_work(self.store, self.plan.run_id, paths, committed)
        return None if rows is None else Lost(rows, rows.num_rows)

    def again(self, lost: Lost, number: int, block_items: int) -> list[str]:
        """See `Work`. Tasks of any size come from one list of rows."""
        return [write_work(self.store, f"_work/{self.plan.run_id}/pass-{number}.parquet", lost.rows)]

    def give_up(self, lost: Lost, detail: str) -> pa.Table:
        """See `Work`."""
        write: WriteSettings = self.chain.write.settings
        crashed = crashed_outcomes(
            lost.rows, specs=write.specs, hidden_dim=write.hidden_dim, carry=write.carry, detail=detail
        )
        return write_outcomes(crashed, write)
