"""Items that kill what handles them, in a real job: each is a reject with its code, and no neighbour is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import open_store
from tests.fixtures.jobs import ROOT, last_summary, read_live, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

POISONOUS = ROOT / "tests" / "fixtures" / "poisonous.py"
CODES = {"device": "DEVICE_ERROR", "kill": "WORKER_CRASHED", "prepare": "WORKER_CRASHED", "raise": "ENCODE_FAILED"}


def run_poisoned(tmp_path: Path, head: RayHead, n_good: int, fates: list[str], timeout_s: float) -> Counter[str]:
    """Deaths by fate of a job over `n_good` texts with an item for each of `fates` among them."""
    step = n_good // len(fates)
    ids = []
    for number in range(n_good):
        if number % step == step // 2 and number // step < len(fates):
            ids.append(f"{fates[number // step]}:{number // step}")
        ids.append(f"good-{number}")
    manifest, deaths = tmp_path / "manifest.parquet", tmp_path / "deaths"
    deaths.touch()
    pq.write_table(pa.table({"id": ids, "text": [f"text number {name}" for name in ids]}), manifest)
    config = write_config(
        tmp_path,
        manifest={"path": str(manifest)},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model()), "deterministic": False},
        resources={"address": head.address},
        run={"max_reject_fraction": 1.0},
    )
    done = run_job(config, timeout_s=timeout_s, job=POISONOUS, LAKEVEC_DEATHS=str(deaths))
    assert done.returncode == 0, done.stdout
    store = open_store(str(tmp_path / "out"))
    assert read_live(store).column("id").to_pylist() == sorted(name for name in ids if name.startswith("good-"))
    rejects = read_live(store, "rejects").to_pylist()
    assert {row["id"]: row["code"] for row in rejects} == {
        name: CODES[name.partition(":")[0]] for name in ids if not name.startswith("good-")
    }
    for row in rejects:
        assert row["attempts"] == 1
        assert row["retryable"]
        if row["code"] == "DEVICE_ERROR":
            assert "device-side assert" in row["detail"]
    assert last_summary(store)["counts"]["vectors"] == n_good
    return Counter(deaths.read_text().split())


@pytest.mark.ray
def test_poison_costs_its_item_and_a_death_or_two(tmp_path: Path, ray_head: RayHead) -> None:
    deaths = run_poisoned(tmp_path, ray_head, 60, ["device", "raise"], 240)
    assert deaths == {"device": 2}


@pytest.mark.ray
@pytest.mark.slow
def test_ten_poisonous_items_in_a_thousand(tmp_path: Path, ray_head: RayHead) -> None:
    fates = ["device", "kill", "prepare", "raise", "device", "kill", "prepare", "raise", "device", "kill"]
    deaths = run_poisoned(tmp_path, ray_head, 1000, fates, 900)
    print(f"deaths: {dict(deaths)}")
    assert 0 < deaths.total() <= 3 * len(fates)
