"""A window that is late leaves its worker through Ray itself, while the worker still makes the next item."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ResourcesConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import from_work_table, to_work_table
from pipeline.stages.chain import Chain, Step, build_chain
from pipeline.stages.meter import start_meter
from pipeline.stages.no_progress import LEAST_S
from pipeline.stages.pools import Pools
from pipeline.stages.prepare import windows
from pipeline.stages.session import ray_session
from pipeline.stages.window_limits import WindowLimits
from pipeline.storage import open_store
from pipeline.types import WorkItem
from pipeline.window import unpack_window
from tests.fixtures.ray_head import RAY_ENV

pytestmark = [pytest.mark.ray, pytest.mark.slow]

AGE_S, WAITS_S = 1.0, 60.0


class SlowPrepare:
    """Makes the first item slowly, and the second only once the first has arrived at the next stage."""

    def __init__(self, settings: str, meter: Any) -> None:
        self._arrived = Path(settings)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        yield from windows(block, self._made(block), WindowLimits(64 << 20, 1 << 20, AGE_S))

    def _made(self, block: pa.Table) -> Iterator[tuple[WorkItem, RejectError]]:
        first, second = from_work_table(block)
        time.sleep(AGE_S)
        yield first, RejectError(RejectCode.DECODE_TIMEOUT, "slow")
        until = time.monotonic() + WAITS_S
        while not self._arrived.exists() and time.monotonic() < until:
            time.sleep(0.05)
        yield second, RejectError(RejectCode.NOT_FOUND, "late" if self._arrived.exists() else "too late")


class Arrival:
    """The next stage: notes that something has come."""

    def __init__(self, settings: str, meter: Any) -> None:
        self._arrived = Path(settings)

    def __call__(self, table: pa.Table) -> pa.Table:
        facts = unpack_window(table).facts
        self._arrived.touch()
        return facts


def as_it_is(table: pa.Table, settings: None) -> pa.Table:
    return table.select(["id", "detail"])


def test_a_late_window_does_not_wait_for_the_end_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in RAY_ENV.items():
        monkeypatch.setenv(name, value)
    # A folder that Ray would take for a column of ids.
    out = tmp_path / "id=7"
    store, arrived = open_store(str(out)), str(tmp_path / "arrived")
    out.mkdir()
    items = [WorkItem(name, ("t",), (), None, None, None, "f", "m", n, 0) for n, name in enumerate("ab")]
    pq.write_table(to_work_table(items), out / "work.parquet")
    with ray_session(ResourcesConfig(address="local")):
        chain = Chain(
            prepare=Step(SlowPrepare, arrived),
            encode=Step(Arrival, arrived),
            write=Step(as_it_is, None),
            pools=Pools(1, 1, 1, 1, 0),
            part_items=None,
            window=WindowLimits(64 << 20, 1 << 20, AGE_S),
            no_progress_s=LEAST_S,
            meter=start_meter(),
        )
        rows = build_chain(chain, store, ["work.parquet"], 2, 0).take_all()
    assert sorted((row["id"], row["detail"]) for row in rows) == [("a", "slow"), ("b", "late")]
