"""Runs that do not end well: killed, stopped, or with an item that kills its worker."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.index.claim import Claim
from pipeline.index.log import Log
from pipeline.index.verify import verify
from pipeline.storage import open_store
from tests.fixtures.jobs import ROOT, last_summary, read_live, run_job, start_job, write_config
from tests.fixtures.media import encode_image, photo
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.ray

N_ITEMS = 320


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of a few hundred texts and pictures, a few of them broken."""
    folder = tmp_path_factory.mktemp("lake")
    rows = []
    for n in range(N_ITEMS):
        row: dict[str, object] = {"id": n, "text": f"Item number {n} of the lake, " + "very " * (n % 40) + "long."}
        if n % 8 == 0:
            name = f"{n}.jpg"
            data = encode_image(photo(200 + n % 3, 150, n), "jpeg")
            (folder / name).write_bytes(data[: 40 if n % 64 == 0 else None])
            row |= {"image": name}
        rows.append(row)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("image", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "manifest.parquet")
    return folder


def config_for(lake: Path, folder: Path, address: str, **run: object) -> Path:
    return write_config(
        folder,
        manifest={"path": str(lake / "manifest.parquet")},
        output={"path": str(folder / "out")},
        model={"path": str(tiny_model())},
        resources={"address": address},
        run={"commit_interval_s": 0.2, "block_items": 16, "max_reject_fraction": 0.2} | run,
    )


@pytest.fixture(scope="module")
def uninterrupted(lake: Path, tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> dict[str, pa.Table]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = run_job(config_for(lake, folder, ray_head.address))
    assert done.returncode == 0, done.stdout
    return {table: read_live(str(folder / "out"), table) for table in ("vectors", "rejects")}


def assert_same_index(output: Path, expected: dict[str, pa.Table]) -> None:
    assert verify(open_store(str(output), {})) == []
    for table, rows in expected.items():
        assert read_live(str(output), table).equals(rows), table


def wait_for_progress(output: Path, process: subprocess.Popen[str], commits: int = 2) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if (output / "_log").is_dir():
            found = Log(open_store(str(output), {})).state().progress
            if len(found) >= commits:
                return
        time.sleep(0.05)
    raise AssertionError("no progress commit within two minutes")


def test_a_killed_driver_is_taken_over(
    lake: Path, tmp_path: Path, ray_head: RayHead, uninterrupted: dict[str, pa.Table]
) -> None:
    config = config_for(lake, tmp_path, ray_head.address)
    process = start_job(config)
    wait_for_progress(tmp_path / "out", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    store = open_store(str(tmp_path / "out"), {})
    state = Log(store).state()
    assert state.snapshot is None
    assert state.claim is not None
    saved = sum(entry.rows for entry in state.parts)
    assert 0 < saved < N_ITEMS

    done = run_job(config)
    assert done.returncode == 0, done.stdout
    assert f"{saved} resumed" in done.stdout
    assert last_summary(store)["counts"]["encoded"] <= N_ITEMS - saved
    assert_same_index(tmp_path / "out", uninterrupted)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 5), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_stopped_run_commits_what_is_done(
    number: signal.Signals,
    code: int,
    lake: Path,
    tmp_path: Path,
    ray_head: RayHead,
    uninterrupted: dict[str, pa.Table],
) -> None:
    config = config_for(lake, tmp_path, ray_head.address)
    process = start_job(config)
    wait_for_progress(tmp_path / "out", process, commits=1)
    process.send_signal(number)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == code, out
    store = open_store(str(tmp_path / "out"), {})
    assert last_summary(store)["exit_code"] == code
    state = Log(store).state()
    assert state.claim is None  # released: the next run need not wait
    assert 0 < sum(entry.rows for entry in state.parts) <= N_ITEMS  # windows under way were finished

    done = run_job(config)
    assert done.returncode == 0, done.stdout
    assert_same_index(tmp_path / "out", uninterrupted)


@pytest.mark.slow
def test_a_time_budget_ends_early_and_the_next_run_goes_on(
    lake: Path, tmp_path: Path, ray_head: RayHead, uninterrupted: dict[str, pa.Table]
) -> None:
    config = config_for(lake, tmp_path, ray_head.address)
    done = run_job(config, "--set", "run.max_runtime_s=1")
    assert done.returncode == 5, done.stdout
    assert "run.max_runtime_s is used up" in done.stdout
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    assert_same_index(tmp_path / "out", uninterrupted)


def test_a_live_owner_is_left_alone(lake: Path, tmp_path: Path, ray_head: RayHead) -> None:
    store = open_store(str(tmp_path / "out"), {})
    with Claim.acquire(store, "other-run", fingerprint="f", renew_s=0.2):
        done = run_job(config_for(lake, tmp_path, ray_head.address), timeout_s=200)
    assert done.returncode == 4, done.stdout
    assert "other-run" in done.stdout


POISON_FS = '''
"""A file system whose files kill whoever opens them."""
import os, signal, fsspec
from fsspec.spec import AbstractFileSystem

class Poison(AbstractFileSystem):
    protocol = "poison"
    def info(self, path, **kw):
        return {"name": path, "size": 9, "type": "file", "ETag": "1"}
    def _open(self, path, mode="rb", **kw):
        os.kill(os.getpid(), signal.SIGKILL)
    def cat_file(self, path, *a, **kw):
        os.kill(os.getpid(), signal.SIGKILL)

fsspec.register_implementation("poison", Poison)
'''


def poisoned(tmp_path: Path, n_texts: int, n_poison: int) -> tuple[Path, dict[str, str]]:
    """A config over a manifest with items that kill their workers, and the environment that arms them."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(POISON_FS)
    rows = [{"id": f"t{n}", "text": f"text {n}", "image": None} for n in range(n_texts)]
    for n in range(n_poison):
        rows.insert(3 * n + 1, {"id": f"poison{n}", "text": None, "image": f"poison://x/{n}.jpg"})
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "manifest.parquet")
    config = write_config(
        tmp_path,
        manifest={"path": str(tmp_path / "manifest.parquet")},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model())},
        fetch={"schemes": ["file", "poison"]},
        resources={"address": "local"},
        run={"block_items": 8, "max_reject_fraction": 1},
    )
    return config, {"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}


def assert_only_poison_is_lost(output: Path, n_texts: int, n_poison: int) -> None:
    store = open_store(str(output), {})
    rejects = read_live(store, "rejects").to_pylist()
    expected = [(f"poison{n}", "WORKER_CRASHED", True) for n in range(n_poison)]
    assert [(row["id"], row["code"], row["retryable"]) for row in rejects] == expected
    assert read_live(store).num_rows == n_texts
    assert verify(store) == []


def test_an_item_that_kills_its_worker_harms_no_other(tmp_path: Path) -> None:
    config, env = poisoned(tmp_path, n_texts=20, n_poison=1)
    done = run_job(config, timeout_s=280, **env)
    assert done.returncode == 0, done.stdout
    assert_only_poison_is_lost(tmp_path / "out", 20, 1)


@pytest.mark.slow
def test_items_that_kill_their_workers_alone_in_a_run_end_it_too(tmp_path: Path) -> None:
    config, env = poisoned(tmp_path, n_texts=0, n_poison=2)
    for attempt in (1, 2):  # nothing else is to do in the second run, and still it ends, one attempt richer
        done = run_job(config, timeout_s=600, **env)
        assert done.returncode == 0, done.stdout
        assert_only_poison_is_lost(tmp_path / "out", 0, 2)
        attempts = read_live(str(tmp_path / "out"), "rejects").column("attempts").to_pylist()
        assert attempts == [attempt, attempt]


@pytest.mark.slow
def test_parts_of_another_kind_are_not_resumed(lake: Path, tmp_path: Path, ray_head: RayHead) -> None:
    """Ids that change their type after a killed first run: its parts are done again, not met at the end."""
    config = config_for(lake, tmp_path, ray_head.address)
    process = start_job(config)
    wait_for_progress(tmp_path / "out", process, commits=1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    rows = pq.read_table(lake / "manifest.parquet")
    few = rows.slice(0, 12).set_column(0, "id", rows.slice(0, 12).column("id").cast(pa.string()))
    pq.write_table(few, tmp_path / "few.parquet")
    done = run_job(
        config,
        "--set", f"manifest.path={tmp_path / 'few.parquet'}",
        "--set", f"fetch.local_roots=[{lake}, {tmp_path}]",
        "--set", "run.max_reject_fraction=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert " 0 resumed" in done.stdout
    store = open_store(str(tmp_path / "out"), {})
    assert verify(store) == []
    assert read_live(store).schema.field("id").type == pa.string()
