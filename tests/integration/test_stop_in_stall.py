"""SIGTERM while a store answers nothing but 503: the job ends within seconds, and the next run goes on from there."""

from __future__ import annotations

import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.index.log import Log
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_proxy import Faults, FaultyProxy
from tests.fixtures.jobs import last_summary, read_live, run_job, start_job, write_config
from tests.fixtures.media import encode_image, photo
from tests.fixtures.ray_head import RayHead
from tests.fixtures.s3_server import S3Server
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.s3

N_TEXTS, N_PICTURES = 24, 60
KILLED_AFTER_S = 30.0
"""What a node that is taken away leaves between SIGTERM and SIGKILL, almost everywhere."""


@dataclass(frozen=True)
class Lake:
    """A lake on the real server behind a proxy, and options that lead through it."""

    place: str
    proxy: FaultyProxy
    options: dict[str, dict[str, Any]]
    direct: dict[str, dict[str, Any]]

    def store(self, folder: str) -> Store:
        """A folder of the lake, past the proxy."""
        return open_store(f"{self.place}/{folder}", self.direct)

    def stall(self, only: str = "", *, writes: bool = False) -> None:
        """From now on every read (and write) of a path with `only` in it is throttled."""
        self.proxy.faults = Faults(all_slow=True, only=only, writes=writes)

    def recover(self) -> None:
        """Nothing fails any more."""
        self.proxy.faults = Faults()


@pytest.fixture
def lake(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> Iterator[Lake]:
    """Texts, and then pictures on S3, in a manifest that is local."""
    place = f"{s3_bucket}/{uuid.uuid4().hex}"
    media = open_store(f"{place}/media", s3_server.storage_options)
    for n in range(N_PICTURES):
        media.put(f"{n}.jpg", encode_image(photo(64, 48, n), "jpeg"))
    rows: list[dict[str, Any]] = [{"id": f"t{n}", "text": f"text {n}", "image": None} for n in range(N_TEXTS)]
    rows += [{"id": f"p{n}", "text": None, "image": f"{place}/media/{n}.jpg"} for n in range(N_PICTURES)]
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "m.parquet")
    with FaultyProxy(s3_server.endpoint_url) as proxy:
        options = {"s3": {**s3_server.storage_options["s3"], "endpoint_url": proxy.endpoint_url}}
        yield Lake(place, proxy, options, s3_server.storage_options)


def config_for(lake: Lake, folder: Path, address: str, **sections: dict[str, Any]) -> Path:
    tree: dict[str, Any] = {
        "manifest": {"path": str(folder / "m.parquet")},
        "output": {"path": str(folder / "out")},
        "model": {"path": str(tiny_model())},
        "fetch": {"storage_options": lake.options},
        "resources": {"address": address},
        "inputs": {},
        "run": {"commit_interval_s": 0.2, "block_items": 4},
    }
    return write_config(folder, **{name: section | sections.get(name, {}) for name, section in tree.items()})


def stopped_after(process: subprocess.Popen[str], within_s: float) -> tuple[float, str]:
    """Seconds from SIGTERM to the end, and what the job said; it must not take `within_s`."""
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    try:
        said, _ = process.communicate(timeout=within_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"not ended {within_s} s after SIGTERM:\n{process.communicate()[0][-3000:]}") from None
    return time.monotonic() - started, said


def wait_until_throttled(lake: Lake, process: subprocess.Popen[str], answers: int) -> None:
    deadline = time.monotonic() + 180
    while lake.proxy.counts["slow"] < answers:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "the store was not asked"
        time.sleep(0.1)


@pytest.mark.parametrize("identity", ["head", pytest.param("content", marks=pytest.mark.slow)])
def test_while_planning_asks_the_store(identity: str, lake: Lake, tmp_path: Path) -> None:
    lake.stall("/media/")
    process = start_job(config_for(lake, tmp_path, "local", inputs={"identity": identity}))
    wait_until_throttled(lake, process, 45)  # more than are under way at once: from here on it only waits
    took_s, said = stopped_after(process, KILLED_AFTER_S)
    print(f"{took_s:.1f} s")
    assert process.returncode == 5, said
    store = open_store(str(tmp_path / "out"))
    assert last_summary(store)["exit_code"] == 5
    assert Log(store).state().claim is None


def wait_for_commit(store: Store, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not Log(store).state().progress:
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"no progress commit: {process.communicate()[0]}")
        time.sleep(0.1)


def assert_goes_on(config: Path, out: Store) -> None:
    """The next run begins with what is committed, and ends complete."""
    saved = sum(entry.rows for entry in Log(out).state().parts)
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    assert f"{saved} resumed" in done.stdout
    assert saved > 0
    assert read_live(out).num_rows == N_TEXTS + N_PICTURES
    assert verify(out) == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("output", ["local", "throttled too"])
def test_while_preparers_wait_for_media(output: str, lake: Lake, tmp_path: Path, ray_head: RayHead) -> None:
    # Slow enough that the first commit comes long before the last read.
    lake.proxy.faults.delay_s = 0.25
    place = str(tmp_path / "out") if output == "local" else f"{lake.place}/out"
    config = config_for(
        lake, tmp_path, ray_head.address,
        inputs={"identity": "trust"}, output={"path": place}, fetch={"concurrency": 1},
    )  # fmt: skip
    out = open_store(place, lake.direct)
    process = start_job(config)
    wait_for_commit(out, process)
    lake.stall("/media/" if output == "local" else "", writes=True)
    wait_until_throttled(lake, process, 10)
    took_s, said = stopped_after(process, KILLED_AFTER_S)
    print(f"{took_s:.1f} s\n{said}")
    lake.recover()
    assert process.returncode == 5, said
    if output == "local":
        assert last_summary(out)["exit_code"] == 5
        assert Log(out).state().claim is None
    assert_goes_on(config, out)
