"""The chain: work list → Prepare → Encode → WritePart on Ray Data, streamed to the driver as receipts.

In: what each stage runs, for whatever job, and the work list. Out: rows of `write.RECEIPT`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from pipeline.stages.pools import WRITE_CPUS, Pools
from pipeline.stages.session import ACTOR_RETRIES, TASK_RETRIES
from pipeline.stages.store_files import filesystem_of
from pipeline.stages.window_limits import WindowLimits
from pipeline.stages.write import RECEIPT
from pipeline.storage import Store

__all__ = ["Chain", "ReceiptStream", "Step", "build_chain", "part_items"]

WINDOWS_AT_ONCE = 2
"""Calls of an encoder at a time: while the device computes one window, the next is unpacked and queued behind it."""

WINDOWS_IN_FLIGHT = 3
"""Windows an encoder holds: two in work, one fetched meanwhile."""

BLOCKS_IN_FLIGHT = 2
"""Blocks a preparer holds: one in work, one waiting."""

MAX_PARTS = 20_000
MIN_PART_ITEMS = 64
MAX_PART_ITEMS = 4096
"""The parts a run aims at writing at most, and the bounds of one: smaller than 64 cuts windows to no gain, larger than
4,096 delays commits."""

_END = object()


@dataclass(frozen=True, slots=True)
class Step:
    """What one stage runs: a class (an actor's, made with its settings and the meter) or a function (called with a
    table and its settings), and the settings, small enough to be pickled."""

    run: Callable[..., Any]
    settings: Any


@dataclass(frozen=True, slots=True)
class Chain:
    """What a run's stages need; the same for its first pass and for reconciling passes.

    `task_rows`: rows of the work list that a preparation task takes, None where a row is an item.
    """

    prepare: Step
    encode: Step
    write: Step
    pools: Pools
    part_items: int | None
    window: WindowLimits
    no_progress_s: float
    meter: Any
    task_rows: int | None = None


def part_items(to_do: int) -> int | None:
    """Items of one write task for a run of `to_do`, None for whatever a window holds.

    Windows of large media hold a dozen items: a hundred million of them would be millions of parts and commits of
    gigabytes. A run that large must do thousands of items a second, so a larger part still fills within seconds.
    """
    items = min(MAX_PART_ITEMS, to_do // MAX_PARTS)
    return items if items >= MIN_PART_ITEMS else None


def build_chain(
    chain: Chain, store: Store, work_paths: Sequence[str], block_items: int, max_errored_blocks: int
) -> ray.data.Dataset:
    """A lazy dataset of `write.RECEIPT` rows for the work list files `work_paths` (relative to the output).

    `block_items`: items of one preparation task; at 1 each actor also holds one at a time, so that an item that kills
    its worker takes nobody along. More than `max_errored_blocks` dropped blocks fail the run.
    """
    alone = block_items == 1
    task_rows = chain.task_rows or block_items
    context = ray.data.DataContext.get_current()
    context.max_errored_blocks = max_errored_blocks
    # Ray gathers a task's output into blocks of 128 MiB by default: there a window would wait for the next one, and be
    # copied out of their common block again.
    context.target_max_block_size = chain.window.block_bytes
    context.execution_no_progress_timeout_s = chain.no_progress_s
    pools = chain.pools
    # Without partitioning: Ray would take a folder on the way that is called `id=…` for the ids of all rows.
    paths = [store.full(path) for path in work_paths]
    work = ray.data.read_parquet(paths, filesystem=filesystem_of(store), partitioning=None)
    return (
        work.repartition(target_num_rows_per_block=task_rows)
        .map_batches(
            chain.prepare.run,
            fn_constructor_args=(chain.prepare.settings, chain.meter),
            batch_size=task_rows,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=pools.preparers, max_tasks_in_flight_per_actor=1 if alone else BLOCKS_IN_FLIGHT
            ),
            num_cpus=pools.cpus_per_preparer,
            **ACTOR_RETRIES,
        )
        .map_batches(
            chain.encode.run,
            fn_constructor_args=(chain.encode.settings, chain.meter),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=pools.encoders,
                max_tasks_in_flight_per_actor=1 if alone else WINDOWS_IN_FLIGHT,
                enable_true_multi_threading=True,
            ),
            # Ray 2.60 has this as an argument of the strategy too; older ones only here.
            max_concurrency=1 if alone else WINDOWS_AT_ONCE,
            # A preparer may take the last CPU beside a GPU; an encoder that asked for both would wait for ever.
            num_cpus=0 if pools.gpus_per_encoder else pools.cpus_per_encoder,
            num_gpus=pools.gpus_per_encoder or None,
            **ACTOR_RETRIES,
        )
        .map_batches(
            chain.write.run,
            fn_args=(chain.write.settings,),
            batch_size=chain.part_items,
            batch_format="pyarrow",
            num_cpus=WRITE_CPUS,
            **TASK_RETRIES,
        )
    )


class ReceiptStream:
    """Receipts of a running dataset, pulled by a thread so that the driver can commit by the clock meanwhile."""

    def __init__(self, dataset: ray.data.Dataset) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pull, args=(dataset,), name="receipts", daemon=True)
        self._thread.start()

    def poll(self, timeout_s: float) -> pa.Table | None:
        """The next receipts, an empty table if none came within `timeout_s`, None at the end.

        Raises whatever ended the dataset early.
        """
        try:
            got = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return RECEIPT.empty_table()
        if got is _END:
            return None
        if isinstance(got, BaseException):
            raise got
        return got

    def _pull(self, dataset: ray.data.Dataset) -> None:
        try:
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                self._queue.put(batch)
            self._queue.put(_END)
        except Exception as error:  # noqa: BLE001 - whatever it is, the driver's thread raises it
            self._queue.put(error)
