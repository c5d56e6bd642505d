"""The merges of a publication as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ray
from ray.exceptions import RayError

from pipeline.index.commits import FileEntry
from pipeline.index.merge import MergeTask, run_merge
from pipeline.redaction import redacted_errors
from pipeline.stages.losses import explained
from pipeline.stages.session import TASK_RETRIES
from pipeline.storage import Store

__all__ = ["merge_tasks"]

POLL_S = 1.0


def merge_tasks(store: Store, tasks: Sequence[MergeTask], beat: Callable[[int, int], None]) -> list[FileEntry]:
    """The files of `tasks`, in their order. `beat(done, all)` follows them.

    Raises what a merge raised, and what `beat` raises to end it early.
    """
    merge = ray.remote(num_cpus=1, **TASK_RETRIES)(redacted_errors(run_merge))
    waiting = [merge.remote(store, task) for task in tasks]
    order = {ref: number for number, ref in enumerate(waiting)}
    merged: dict[int, FileEntry] = {}
    while waiting:
        done, waiting = ray.wait(waiting, timeout=POLL_S)
        try:
            merged |= {order[ref]: ray.get(ref) for ref in done}
        except RayError as error:
            raise explained(error) from error
        beat(len(merged), len(order))
    return [merged[number] for number in range(len(order))]
