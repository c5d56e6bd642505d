"""Bad configs and manifests end with exit 2 in seconds, before any model loads, saying what and where."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.jobs import JOB, ROOT, last_summary, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

SECONDS = 90  # generous for a loaded machine, on which the imports alone may take twenty; such a run takes two here


def config_with(tmp_path: Path, table: pa.Table, **manifest: Any) -> Path:
    pq.write_table(table, tmp_path / "manifest.parquet")
    return write_config(
        tmp_path,
        manifest={"path": str(tmp_path / "manifest.parquet"), **manifest},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model())},
        resources={"address": "127.0.0.1:1"},  # nothing answers there: nothing may get as far as Ray
    )


BAD = {
    "no id": (pa.table({"idd": ["a"], "text": ["b"]}), ["'id'", "idd"]),
    "null ids": (pa.table({"id": ["a", None], "text": ["b", "c"]}), ["'id'", "null"]),
    "duplicate ids": (pa.table({"id": [1, 2, 1, 2, 3], "text": list("abcde")}), ["'id'", "duplicate", "1", "2"]),
    "float ids": (pa.table({"id": [1.5], "text": ["b"]}), ["'id'", "double"]),
    "wrong type": (pa.table({"id": ["a"], "image": [3.5]}), ["'image'", "double"]),
    "nothing usable": (pa.table({"id": ["a"], "caption": ["b"]}), ["text", "image", "video", "frames"]),
    "no rows": (pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}), ["no rows"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_manifests(name: str, tmp_path: Path) -> None:
    table, words = BAD[name]
    started = time.monotonic()
    done = run_job(config_with(tmp_path, table), timeout_s=SECONDS)
    assert done.returncode == 2, done.stdout
    assert time.monotonic() - started < SECONDS
    assert all(word in done.stdout for word in words), done.stdout
    assert "Traceback" not in done.stdout


def test_a_missing_manifest_names_itself_and_the_summary_repeats_the_code(tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]}))
    (tmp_path / "manifest.parquet").unlink()
    done = run_job(config, timeout_s=SECONDS)
    assert done.returncode == 2, done.stdout
    assert str(tmp_path / "manifest.parquet") in done.stdout
    from pipeline.storage import open_store

    assert last_summary(open_store(str(tmp_path / "out"), {}))["exit_code"] == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.pth=x", ["model.pth", "did you mean path"]),
        ("output.vectors=[{dim: 4096, dtype: int8}]", ["4096", "64"]),
        ("model.path=/no/such/model", ["/no/such/model"]),
        ("run.commit_interval_s=soon", ["run.commit_interval_s", "soon"]),
        ("fetch.schemes=[https]", ["https"]),
    ],
)
def test_bad_configs(override: str, words: list[str], tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]}))
    done = run_job(config, "--set", override, timeout_s=SECONDS)
    assert done.returncode == 2, done.stdout
    assert all(word in done.stdout for word in words), done.stdout
    assert "Traceback" not in done.stdout


def test_an_unreachable_cluster_is_exit_2(tmp_path: Path) -> None:
    done = run_job(config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]})), timeout_s=120)
    assert done.returncode == 2, done.stdout
    assert "127.0.0.1:1" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        (["output.path={folder}/manifest.parquet"], "is a file"),
        (["output.path=/proc/nowhere/out"], "cannot be written"),
        (["output.path={folder}/out?"], "with ? in its name"),
        (
            [
                "output.path=s3://bucket/out",
                "fetch.storage_options={{s3: {{endpoint_url: 'http://127.0.0.1:1', key: k, secret: TOPSECRET}}}}",
            ],
            "cannot be reached",
        ),
    ],
)
def test_an_output_out_of_reach_is_exit_2(overrides: list[str], word: str, tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]}))
    sets = [part for override in overrides for part in ("--set", override.format(folder=tmp_path))]
    done = run_job(config, *sets, timeout_s=200)
    assert done.returncode == 2, done.stdout
    assert word in done.stdout
    assert "Traceback" not in done.stdout
    assert "TOPSECRET" not in done.stdout


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("{endpoint_url: 'http://127.0.0.1:1', key: k, secret: TOPSECRET}", "s3://bucket/m.parquet"),
        ("{endpoint_url: 'http://127.0.0.1:1', key: k, secret: TOPSECRET, bogus: 1}", "bogus"),
    ],
)
def test_a_manifest_out_of_reach_is_exit_2(options: str, word: str, tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]}))
    sets = ["--set", "manifest.path=s3://bucket/m.parquet", "--set", f"fetch.storage_options={{s3: {options}}}"]
    done = run_job(config, *sets, timeout_s=200)
    assert done.returncode == 2, done.stdout
    assert "cannot list the manifest" in done.stdout
    assert word in done.stdout
    assert "Traceback" not in done.stdout
    assert "TOPSECRET" not in done.stdout


def test_a_command_says_so_when_the_index_is_out_of_reach(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        manifest={"path": "m.parquet"},
        output={"path": "out"},
        model={"path": "m"},
        fetch={"storage_options": {"s3": {"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "TOPSECRET"}}},
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "files", "s3://bucket/out", "--config", str(config)],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "the output s3://bucket/out cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_a_gpu_that_torch_cannot_use_is_no_reason_to_crawl_along_on_the_cpu(tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a"], "text": ["b"]}))
    with RayHead(n_gpus=1) as head:
        done = run_job(config, "--set", f"resources.address={head.address}", timeout_s=200)
    assert done.returncode == 2, done.stdout
    assert "torch sees 0 GPUs" in done.stdout


def test_print_config_shows_every_key_and_no_secret(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        manifest={"path": "m.parquet"},
        output={"path": "out"},
        model={"path": "m"},
        fetch={"storage_options": {"s3": {"secret": "TOPSECRET", "endpoint_url": "http://127.0.0.1:1"}}},
    )
    shown = subprocess.run(
        [sys.executable, str(JOB), "--config", str(config), "--set", "run.max_items=7", "--print-config"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert "max_items: 7" in shown
    assert "commit_interval_s: 30" in shown
    assert "endpoint_url: http://127.0.0.1:1" in shown
    assert "TOPSECRET" not in shown


def test_plan_counts_and_does_nothing(tmp_path: Path) -> None:
    config = config_with(tmp_path, pa.table({"id": ["a", "b"], "text": ["one", "two words"]}))
    done = run_job(config, "--plan", timeout_s=SECONDS)
    assert done.returncode == 0, done.stdout
    assert "2 new" in done.stdout
    assert "2 text" in done.stdout
    assert not (tmp_path / "out").exists()
