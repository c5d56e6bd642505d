"""On several nodes a local path that one of them does not see is exit 2, naming path and node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.jobs import ROOT
from tests.fixtures.ray_head import RAY_ENV

SCRIPT = """
import sys
from pathlib import Path
import pipeline.stages.session
import ray
from ray.cluster_utils import Cluster
from pipeline.errors import ConfigError
from pipeline.stages.shared_paths import check_shared_paths
from pipeline.storage import open_store

folder = Path(sys.argv[1])
(folder / "seen").write_text("x")
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, connect=True)
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
assert len(nodes) == 2
store = open_store(str(folder / "out"), {})
check_shared_paths(store, [str(folder / "seen"), "s3://bucket/not-probed"], nodes, "probe-1")
assert not store.list("_work"), "the probe is removed"
try:
    check_shared_paths(store, [str(folder / "unseen")], nodes, "probe-2")
except ConfigError as error:
    for word in (str(folder / "unseen"), nodes[0][:8], nodes[1][:8], "s3://"):
        assert word in str(error), (word, error)
else:
    raise AssertionError("a path that no node sees must be refused")
check_shared_paths(store, [str(folder / "unseen")], nodes[:1], "probe-3")
ray.shutdown()
cluster.shutdown()
print("checked")
"""


@pytest.mark.ray
def test_every_node_must_see_a_local_path(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, env=os.environ | RAY_ENV,
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "checked" in done.stdout
