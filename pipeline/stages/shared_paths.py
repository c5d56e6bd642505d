"""Local paths on several nodes: each is probed from each node, because one that is not shared loses data silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import ConfigError
from pipeline.storage import Store

__all__ = ["check_shared_paths"]

PROBE_TIMEOUT_S = 120.0
"""A worker process starts in seconds; on a busy node, or one that installs a runtime environment, it takes longer."""


def check_shared_paths(store: Store, inputs: Sequence[str], node_ids: Sequence[str], probe: str) -> None:
    """Check that every node sees the local ones of the output and of `inputs` (keys: absolute paths).

    `probe` names this run: a file of that name is written into a local output and looked for from every node.
    Raises ConfigError naming the path and the nodes that do not see it. On one node there is nothing to check.
    """
    if len(node_ids) < 2:
        return
    bare = [path.removeprefix("file://") for path in inputs]
    paths = [path for path in bare if "://" not in path]
    marker = f"_work/{probe}/probe"
    if store.is_local:
        store.put(marker, probe.encode())
        paths.append(store.full(marker))
    try:
        _probe_all(paths, node_ids)
    finally:
        if store.is_local:
            store.delete(marker)


def _probe_all(paths: list[str], node_ids: Sequence[str]) -> None:
    task = ray.remote(num_cpus=0, max_retries=2)(_unseen)
    calls = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(paths)
        for node in node_ids
    }
    blind: dict[str, list[str]] = {}
    for node, call in calls.items():
        try:
            unseen = ray.get(call, timeout=PROBE_TIMEOUT_S)
        except RayError as error:
            raise ConfigError(f"node {node[:8]} did not answer while probing local paths: {error}") from None
        for path in unseen:
            blind.setdefault(path, []).append(node[:8])
    if blind:
        lines = [f"{path} is not there on node {', '.join(nodes)}" for path, nodes in blind.items()]
        raise ConfigError(
            "a local path must be on storage that every node shares:\n  " + "\n  ".join(lines) + "\n"
            "use s3:// or a shared mount, or run on one node (resources.address: local)"
        )


def _unseen(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
