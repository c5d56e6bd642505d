"""Scans as Ray tasks: a function over pieces of an index, a bounded number at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError

from pipeline.redaction import redacted_errors
from pipeline.stages.losses import explained
from pipeline.stages.session import TASK_RETRIES, Cluster

__all__ = ["scan_tasks", "tasks_at_once"]

WAITING = 2
"""Tasks under way for each that has a CPU: none waits for the driver, and results do not pile up."""

POLL_S = 1.0
"""A signal is looked for between waits: a handler that raises inside Ray's wait ends in a SystemError."""


def tasks_at_once(cluster: Cluster, cpus_each: float) -> int:
    """How many scans run beside each other."""
    return max(1, int(cluster.cpus / cpus_each))


def scan_tasks(
    function: Callable[[Any], pa.Table],
    arguments: Sequence[Any],
    *,
    cpus_each: float,
    at_once: int,
    check: Callable[[], None],
) -> Iterator[pa.Table]:
    """`function` of each of `arguments`, as tasks of `cpus_each` CPUs, in the order in which they end.

    What `function` holds (the queries) travels to a node once. `check` is called every second, and what it raises ends
    the scan. Raises the LakevecError behind a failed task.
    """
    task = ray.remote(num_cpus=cpus_each, **TASK_RETRIES)(_apply)
    shared = ray.put(function)
    left = iter(arguments)
    running: list[Any] = []
    while True:
        while len(running) < at_once * WAITING and (argument := next(left, None)) is not None:
            running.append(task.remote(shared, argument))
        if not running:
            return
        done, running = ray.wait(running, timeout=POLL_S)
        check()
        for one in done:
            try:
                found: pa.Table = ray.get(one)
            except RayError as error:
                raise explained(error) from error
            yield found


@redacted_errors
def _apply(function: Callable[[Any], pa.Table], argument: Any) -> pa.Table:  # noqa: ANN401 - any picklable argument
    return function(argument)
