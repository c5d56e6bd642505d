"""A disk that fills up in the middle of a run: a clean stop, and the next run continues once there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ExitCode
from pipeline.index.verify import verify
from pipeline.storage import open_store
from tests.fixtures.jobs import read_live, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1500)]

DISK_MB = 8
ITEMS = 20_000
"""Their vectors take more than the disk has."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_a_run_that_can_be_continued(small_disk: Path, tmp_path: Path, ray_head: RayHead) -> None:
    rows = pa.table({"id": pa.array(range(ITEMS), pa.int64()), "text": [f"item {n}" for n in range(ITEMS)]})
    pq.write_table(rows, tmp_path / "manifest.parquet")
    config = write_config(
        tmp_path,
        manifest={"path": str(tmp_path / "manifest.parquet")},
        output={"path": str(small_disk / "out")},
        model={"path": str(tiny_model()), "deterministic": False},
        resources={"address": ray_head.address},
        run={"commit_interval_s": 0.2},
    )
    # Room for the work list and some parts.
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(4 << 20))
    done = run_job(config, timeout_s=600)
    assert done.returncode == ExitCode.INCOMPLETE, done.stdout
    assert "there is no room to write" in done.stdout
    assert "Traceback" not in done.stdout
    ballast.unlink()
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    done = run_job(config, timeout_s=600)
    assert done.returncode == ExitCode.COMPLETE, done.stdout
    store = open_store(str(small_disk / "out"))
    assert verify(store) == []
    assert read_live(store).num_rows == ITEMS
    assert read_live(store, "rejects").num_rows == 0
