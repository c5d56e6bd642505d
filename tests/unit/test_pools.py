"""Pool sizes fit the cluster, or the user is told what does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError
from pipeline.stages.pools import RESERVED_CPUS, size_pools
from pipeline.stages.session import Cluster


def cluster(cpus: float, gpus: float = 0) -> Cluster:
    return Cluster(cpus, gpus, ("node",))


@given(st.integers(4, 512), st.integers(0, 16), st.sampled_from([0.5, 1.0, 2.0]))
def test_auto_never_starves_reads_and_writes(cpus: int, gpus: int, share: float) -> None:
    resources = ResourcesConfig(gpus_per_encoder=share, cpus_per_encoder=0.1)
    if gpus and gpus < share:
        return
    pools = size_pools(resources, cluster(cpus, gpus))
    assert pools.preparers >= 1
    assert pools.encoders >= 1
    assert pools.encoders * pools.gpus_per_encoder <= gpus
    used = pools.preparers * pools.cpus_per_preparer + pools.encoders * pools.cpus_per_encoder
    assert used + RESERVED_CPUS <= cpus


def test_without_a_gpu_the_encoder_runs_on_the_cpu() -> None:
    pools = size_pools(ResourcesConfig(gpus_per_encoder=1), cluster(4))
    assert (pools.encoders, pools.gpus_per_encoder) == (1, 0)


@pytest.mark.parametrize(
    ("resources", "there", "message"),
    [
        (ResourcesConfig(preparers=8), cluster(4), "the cluster has 4 CPUs"),
        (ResourcesConfig(encoders=2, gpus_per_encoder=1), cluster(32, 1), "the cluster has 1"),
        (ResourcesConfig(), cluster(2), "do not fit"),
    ],
)
def test_a_cluster_that_is_too_small_is_named(resources: ResourcesConfig, there: Cluster, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        size_pools(resources, there)
