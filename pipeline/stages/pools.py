"""Pool sizes: how many preparers and encoders a cluster can hold without starving its own reads and writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError
from pipeline.stages.session import Cluster

__all__ = ["WRITE_CPUS", "Pools", "size_pools"]

WRITE_CPUS = 0.25
"""A write task compresses a few MiB and mostly waits for the store."""

RESERVED_CPUS = 1.5
"""One read task, and write tasks. Without it actors take every CPU and the run hangs silently."""


@dataclass(frozen=True, slots=True)
class Pools:
    """Actors and what each takes. `gpus_per_encoder` is 0 on a cluster without GPUs."""

    preparers: int
    cpus_per_preparer: float
    encoders: int
    cpus_per_encoder: float
    gpus_per_encoder: float


def size_pools(resources: ResourcesConfig, cluster: Cluster) -> Pools:
    """Fit `resources` to `cluster`; `auto` means one encoder for every share of a GPU, preparers on the CPUs left.

    Raises ConfigError when the cluster is too small, saying what is there and what is asked for.
    """
    gpus_each = resources.gpus_per_encoder if cluster.gpus else 0.0
    most = int((cluster.cpus - RESERVED_CPUS - resources.cpus_per_preparer) / resources.cpus_per_encoder)
    encoders = _auto(resources.encoders, min(most, int(cluster.gpus / gpus_each)) if gpus_each else 1)
    if gpus_each * encoders > cluster.gpus:
        raise ConfigError(
            f"resources asks for {encoders} encoders of {gpus_each:g} GPUs, the cluster has {cluster.gpus:g}; "
            "lower resources.encoders or resources.gpus_per_encoder"
        )
    left = cluster.cpus - RESERVED_CPUS - encoders * resources.cpus_per_encoder
    preparers = _auto(resources.preparers, int(left / resources.cpus_per_preparer))
    if preparers * resources.cpus_per_preparer > left:
        raise ConfigError(
            f"the cluster has {cluster.cpus:g} CPUs; {encoders} encoders × {resources.cpus_per_encoder:g}, {preparers} "
            f"preparers × {resources.cpus_per_preparer:g} and {RESERVED_CPUS:g} for reading and writing do not fit; "
            "lower resources.encoders, resources.preparers or the CPUs of each, or use a larger cluster"
        )
    return Pools(preparers, resources.cpus_per_preparer, encoders, resources.cpus_per_encoder, gpus_each)


def _auto(asked: int | Literal["auto"], fitting: int) -> int:
    return max(1, fitting) if asked == "auto" else asked
