"""Kills without number: of the driver, the actors and their children, and of a whole node, over one run on two nodes.

The job is started again whenever it has ended, as a nightly supervisor does; at the end the index is that of a run
which nobody touched, id for id and bit for bit.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ExitCode
from pipeline.index.log import Log
from pipeline.index.verify import verify
from pipeline.storage import open_store
from tests.fixtures.faulty_store import fault_seed
from tests.fixtures.jobs import last_summary, read_live, run_job, start_job, write_config
from tests.fixtures.media import encode_image, photo
from tests.fixtures.prey import Kind, Prey, choose, prey_of
from tests.fixtures.ray_head import RayHead, RayNode
from tests.fixtures.tiny_model import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("LAKEVEC_KILLS", "100"))
"""100 take about half an hour on two cores; LAKEVEC_KILLS=12 some minutes."""

ITEMS_A_KILL = 120
ITEMS = max(1200, ITEMS_A_KILL * KILLS)
"""A run must outlive its kills."""

BETWEEN = (0.25, 2.0)
"""Pauses between two kills, in shares of what a run takes untouched for the items that there are for each kill.

Shorter, and next to nothing would be done between them: actors and drivers need their seconds to be there again."""

DRIVERS = 0.2
"""The share of kills that meet the driver: a new one needs seconds before there is anything else to kill."""

WAITED_S = 15.0
"""For a kind of process that is not there yet: what the last of them takes from a driver's start on two busy cores."""

PATIENCE_S = 900.0


@dataclass(frozen=True, slots=True)
class Untouched:
    """What a run left that nobody killed, and how long it took."""

    tables: dict[str, pa.Table]
    took_s: float


CPUS = 3
"""Of each node: neither of the two has room for the whole job."""


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(n_cpus=CPUS) as head:
        yield head


@pytest.fixture
def nodes(head: RayHead) -> Iterator[tuple[RayHead, RayNode]]:
    """The head and a node of the test's own, which it may lose."""
    with RayNode(head, n_cpus=CPUS) as node:
        yield head, node


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and pictures, a few of them broken."""
    folder = tmp_path_factory.mktemp("lake")
    rows = []
    for n in range(ITEMS):
        row: dict[str, object] = {"id": n, "text": f"Item number {n} of the lake, " + "very " * (n % 40) + "long."}
        if n % 4 == 0:
            data = encode_image(photo(120 + n % 7, 90, n), "jpeg")
            (folder / f"{n}.jpg").write_bytes(data[: 40 if n % 64 == 0 else None])
            row |= {"image": f"{n}.jpg"}
        rows.append(row)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("image", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "manifest.parquet")
    return folder


def config_for(lake: Path, folder: Path, head: RayHead) -> Path:
    return write_config(
        folder,
        manifest={"path": str(lake / "manifest.parquet")},
        output={"path": str(folder / "out")},
        model={"path": str(tiny_model())},
        resources={"address": head.address, "preparers": 2, "encoders": 2},
        run={"commit_interval_s": 0.2, "block_items": 16, "max_reject_fraction": 0.2, "max_attempts": 1000},
    )


@pytest.fixture(scope="module")
def untouched(lake: Path, tmp_path_factory: pytest.TempPathFactory, head: RayHead) -> Untouched:
    folder = tmp_path_factory.mktemp("untouched")
    with RayNode(head, n_cpus=CPUS):
        began_s = time.monotonic()
        done = run_job(config_for(lake, folder, head), timeout_s=PATIENCE_S)
        assert done.returncode == 0, done.stdout
        took_s = time.monotonic() - began_s
    print(f"untouched: {ITEMS} items in {took_s:.0f} s")
    return Untouched({table: read_live(str(folder / "out"), table) for table in ("vectors", "rejects")}, took_s)


def assert_same_index(output: Path, expected: Untouched) -> None:
    assert verify(open_store(str(output), {})) == []
    for table, rows in expected.tables.items():
        found = read_live(str(output), table)
        # How often an item was tried is no part of what became of it.
        keep = [name for name in rows.column_names if name != "attempts"]
        assert found.select(keep).equals(rows.select(keep)), table


def next_prey(driver: subprocess.Popen[str], nodes: list[int], dice: random.Random) -> Prey | None:
    """The driver, or a process that it has on the nodes of a kind drawn and waited for; None if it ends before.

    Whatever is there first would hardly ever be a decoding child, which starts last.
    """
    if dice.random() < DRIVERS:
        return Prey(Kind.DRIVER, None, psutil.Process(driver.pid))
    kind, until_s = dice.choice([Kind.PREPARER, Kind.ENCODER, Kind.TASK, Kind.CHILD]), time.monotonic() + WAITED_S
    while driver.poll() is None:
        found = prey_of(None, nodes)
        of_kind = [each for each in found if each.kind is kind]
        if of_kind or (found and time.monotonic() > until_s):
            return choose(of_kind or found, dice)
        time.sleep(0.1)
    return None


def check_soundness(output: Path) -> None:
    """What is committed is there whole, and what readers see is sound; before any commit there is nothing."""
    if not (output / "_log").is_dir():
        return
    store = open_store(str(output), {})
    state = Log(store).state()
    assert all(store.size(entry.path) == entry.bytes for entry in state.parts)
    if state.snapshot is not None:
        assert verify(store) == []


def complete(config: Path, process: subprocess.Popen[str]) -> Counter[int]:
    """Start the job again until it is complete, from `process` on; how often it ended with which exit code."""
    codes: Counter[int] = Counter()
    while True:
        out, _ = process.communicate(timeout=PATIENCE_S)
        codes[process.returncode] += 1
        if process.returncode == 0:
            return codes
        assert process.returncode in (-9, ExitCode.FAILED, ExitCode.INCOMPLETE), out
        print(f"ended with {process.returncode}: {out.splitlines()[-1:]}")
        assert codes.total() < 10, out
        process = start_job(config)


def test_a_run_under_kills(lake: Path, tmp_path: Path, untouched: Untouched, nodes: tuple[RayHead, RayNode]) -> None:
    dice = random.Random(fault_seed())
    config, output = config_for(lake, tmp_path, nodes[0]), tmp_path / "out"
    killed: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    began_s = time.monotonic()
    process = start_job(config)
    while killed.total() < KILLS:
        time.sleep(dice.uniform(*BETWEEN) * untouched.took_s * ITEMS_A_KILL / ITEMS)
        if process.poll() is None:
            prey = next_prey(process, [node.pid for node in nodes], dice)
            if prey is None:
                continue
            with suppress(psutil.NoSuchProcess):
                prey.process.kill()
                killed[f"{prey.kind} of node {prey.node}" if prey.node is not None else str(prey.kind)] += 1
            if prey.kind is not Kind.DRIVER:
                continue
        out, _ = process.communicate(timeout=PATIENCE_S)
        codes[process.returncode] += 1
        assert process.returncode in (-9, ExitCode.COMPLETE, ExitCode.FAILED, ExitCode.INCOMPLETE), out
        if process.returncode == ExitCode.FAILED:
            print(f"failed: {out.splitlines()[-1:]}")
        if process.returncode == ExitCode.COMPLETE:
            break
        check_soundness(output)
        process = start_job(config)
    codes += complete(config, process) if process.poll() is None or process.returncode != 0 else Counter()
    # What a kill met at every try is a reject that may pass: the next night tries it again.
    crashed = last_summary(open_store(str(output), {}))["rejects_by_code"].get("WORKER_CRASHED", 0)
    done = run_job(config, timeout_s=PATIENCE_S)
    assert done.returncode == 0, done.stdout
    print(
        f"{killed.total()} kills in {time.monotonic() - began_s:.0f} s: {dict(sorted(killed.items()))}; "
        f"exit codes {dict(codes)}; {crashed} WORKER_CRASHED before the last night"
    )
    assert killed.total() >= KILLS, "the run was over before its kills: more items are needed"
    assert_same_index(output, untouched)


def test_a_node_is_lost(lake: Path, tmp_path: Path, untouched: Untouched, nodes: tuple[RayHead, RayNode]) -> None:
    head, node = nodes
    config, output = config_for(lake, tmp_path, head), tmp_path / "out"
    process = start_job(config)
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s
        on_node = [prey for prey in prey_of(None, [node.pid]) if prey.kind in (Kind.PREPARER, Kind.ENCODER)]
        if on_node and (output / "_log").is_dir() and len(Log(open_store(str(output), {})).state().progress) >= 2:
            break
        time.sleep(0.05)
    node.lose()
    codes = complete(config, process)
    print(f"lost a node with {[str(prey.kind) for prey in on_node]}; exit codes {dict(codes)}")
    done = run_job(config, timeout_s=PATIENCE_S)
    assert done.returncode == 0, done.stdout
    assert_same_index(output, untouched)
