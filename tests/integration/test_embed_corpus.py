"""The whole job on local files: what it writes, and what running it again does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import VectorSpec
from pipeline.embedder import Embedder
from pipeline.index.verify import verify
from pipeline.quantize import quantize
from pipeline.storage import Store, open_store
from tests.fixtures.corpus import SCHEMA, sample_rows, write_corpus
from tests.fixtures.jobs import ROOT, last_summary, read_live, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.ray

VECTORS = [
    {"name": "vector", "dtype": "float32"},
    {"name": "half", "dim": 32, "dtype": "float16"},
    {"name": "small", "dim": 32, "dtype": "int8"},
    {"name": "bits", "dim": 64, "dtype": "binary"},
]


@dataclass(frozen=True)
class Embedded:
    """A finished run over the sample corpus."""

    lake: Path
    config: Path
    store: Store
    log: str


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Embedded:
    folder = tmp_path_factory.mktemp("corpus")
    manifest = write_corpus(folder / "lake")
    config = write_config(
        folder,
        manifest={"path": str(manifest), "carry": ["topic"]},
        output={"path": str(folder / "out"), "vectors": VECTORS},
        model={"path": str(tiny_model())},
        resources={"address": ray_head.address},
        run={"max_reject_fraction": 0.2},
    )
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    return Embedded(folder / "lake", config, open_store(str(folder / "out"), {}), done.stdout)


def data_files(store: Store) -> dict[str, int]:
    return {f.path: f.bytes for table in ("vectors", "rejects", "_log") for f in store.list(table)}


def test_every_item_has_one_outcome(embedded: Embedded) -> None:
    vectors, rejects = read_live(embedded.store), read_live(embedded.store, "rejects")
    ids = vectors.column("id").to_pylist() + rejects.column("id").to_pylist()
    assert sorted(ids) == sorted(row["id"] for row in sample_rows())
    codes = {row["id"]: (row["code"], row["stage"]) for row in rejects.to_pylist()}
    assert codes == {
        "broken-image": ("IMAGE_UNREADABLE", "decode"),
        "broken-video": ("UNSUPPORTED_FORMAT", "decode"),
    }
    assert verify(embedded.store) == []


def test_vectors_are_what_the_library_gives(embedded: Embedded) -> None:
    rows = {row["id"]: row for row in read_live(embedded.store).to_pylist()}
    items = [_request(row, embedded.lake) for row in sample_rows() if row["id"] in rows]
    with Embedder(str(tiny_model()), dtype="float32") as embedder:
        expected = embedder.embed(items)
    ids = [row["id"] for row in sample_rows() if row["id"] in rows]
    got = np.array([rows[name]["vector"] for name in ids], np.float32)
    assert np.abs(got - expected).max() <= 1e-5
    assert np.allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)


def _request(row: dict[str, Any], lake: Path) -> dict[str, Any]:
    request: dict[str, Any] = {}
    for name in ("text", "instruction"):
        if name in row:
            request[name] = row[name]
    for name in ("image", "video"):
        if name in row:
            request[name] = str(lake / row[name])
    if "frames" in row:
        request["video"] = [str(lake / frame) for frame in row["frames"]]
    return request


def test_every_spec_comes_from_the_same_vector(embedded: Embedded) -> None:
    table = read_live(embedded.store)
    full = np.stack(table.column("vector").to_numpy(zero_copy_only=False))
    cut = full[:, :32] / np.linalg.norm(full[:, :32], axis=1, keepdims=True)
    half = np.stack(table.column("half").to_numpy(zero_copy_only=False)).astype(np.float32)
    small = np.stack(table.column("small").to_numpy(zero_copy_only=False)).astype(np.float32)
    restored = small * table.column("small_scale").to_numpy()[:, None]
    bits = np.stack(table.column("bits").to_numpy(zero_copy_only=False))
    assert np.abs(half - cut).max() <= 1e-3
    assert np.abs(restored - cut).max() <= np.abs(cut).max() / 127
    assert np.array_equal(bits, np.packbits(full > 0, axis=1))


def test_files_are_plain_parquet_that_say_what_made_them(embedded: Embedded) -> None:
    path = next(f.path for f in embedded.store.list("vectors"))
    schema = pq.read_schema(embedded.store.full(path))
    assert pa.types.is_fixed_size_list(schema.field("vector").type)
    assert schema.names[:2] == ["id", "vector"]
    assert schema.names[-3:] == ["fingerprint", "content_hash", "topic"]
    metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    assert metadata["lakevec.model_identity"].startswith("local:")
    assert {spec["name"] for spec in json.loads(metadata["lakevec.vectors"])} == {spec["name"] for spec in VECTORS}
    assert {"lakevec.template_version", "lakevec.versions", "lakevec.run_id"} <= metadata.keys()


def test_facts_and_carried_columns(embedded: Embedded) -> None:
    rows = {row["id"]: row for row in read_live(embedded.store).to_pylist()}
    assert {row["modality"] for row in rows.values()} == {"text", "image", "video", "mixed"}
    assert rows["mixed-video"]["modality"] == "mixed"
    assert rows["video-frames"]["n_frames"] == 6
    assert rows["text-de"]["n_visual_tokens"] == 0
    assert rows["image-beach"]["n_visual_tokens"] == 80  # 320x240 px is resized to 320x256: 10 x 8 tokens of 32 px
    assert all(row["topic"] == topic["topic"] for row, topic in ((rows["text-en"], sample_rows()[0]),))
    assert not any(row["truncated"] for row in rows.values())


def test_summary(embedded: Embedded) -> None:
    summary = next(
        document
        for document in (
            json.loads(embedded.store.read(f.path)) for f in embedded.store.list("reports") if "summary" in f.path
        )
        if document["counts"]["encoded"]
    )
    n = len(sample_rows())
    assert summary["exit_code"] == 0
    assert summary["status"] == "complete"
    assert summary["counts"] == {
        "items": n, "new": n, "changed": 0, "carried": 0, "unchanged": 0, "deleted": 0, "retryable": 0, "resumed": 0,
        "recomputed": 0, "duplicates": 0, "encoded": n - 2, "vectors": n - 2, "rejects": 2,
    }  # fmt: skip
    assert summary["rejects_by_code"] == {"IMAGE_UNREADABLE": 1, "UNSUPPORTED_FORMAT": 1}
    rows = read_live(embedded.store).to_pylist()
    assert summary["tokens"]["visual"] == sum(row["n_visual_tokens"] for row in rows)
    assert summary["tokens"]["text"] + summary["tokens"]["visual"] == sum(row["n_tokens"] for row in rows)
    assert summary["tokens"]["padded"] == 0
    assert set(summary["seconds"]) >= {"total", "plan", "prepare", "encode", "write", "commit"}
    assert summary["throughput"]["items_s"] > 0
    assert summary["bottleneck"] in ("prepare", "encode", "write")
    assert summary["versions"]["ray"]


def test_the_log_is_the_jobs_own(embedded: Embedded) -> None:
    # A busy machine takes more than the half minute after which a line of progress is due.
    lines = [line for line in embedded.log.splitlines() if not line.startswith("encode: ")]
    assert len(lines) <= 6, embedded.log
    assert all(" INFO " in line for line in lines), embedded.log


def test_running_again_does_nothing(embedded: Embedded) -> None:
    before = data_files(embedded.store)
    done = run_job(embedded.config, timeout_s=200, RAY_ADDRESS="127.0.0.1:1")  # no cluster is asked for
    assert done.returncode == 0, done.stdout
    summary = last_summary(embedded.store)
    assert summary["counts"]["encoded"] == 0
    assert summary["counts"]["unchanged"] == len(sample_rows())
    assert summary["counts"]["vectors"] == len(sample_rows()) - 2
    after = data_files(embedded.store)
    assert {path for path in after if not path.startswith("_log")} == {p for p in before if not p.startswith("_log")}
    assert not embedded.store.list("_work")


def test_files_and_verify_commands(embedded: Embedded) -> None:
    def lakevec(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    root = embedded.store.full("")
    lines = lakevec("files", root, "--json").splitlines()
    assert sum(json.loads(line)["rows"] for line in lines) == len(sample_rows()) - 2
    assert lakevec("files", root, "--table", "rejects").startswith("file://")
    assert "every invariant holds" in lakevec("verify", root)
    assert "<|im_start|>user\nEin rotes Fahrrad" in lakevec("render", str(embedded.config), "--id", "text-de")


def test_another_kind_of_index_is_refused(embedded: Embedded) -> None:
    before = data_files(embedded.store)
    done = run_job(embedded.config, "--set", "inputs.instruction=Another task", timeout_s=200)
    assert done.returncode == 4, done.stdout
    assert "another kind of index" in done.stdout
    assert "inputs.instruction None is 'Another task' in this config; run.on_recompute=all" in done.stdout
    assert data_files(embedded.store) == before


@pytest.mark.slow
def test_a_changed_lake_costs_what_changed(tmp_path: Path, ray_head: RayHead) -> None:
    manifest = write_corpus(tmp_path / "lake")
    rows = [row for row in sample_rows() if row["id"].startswith(("text", "image", "broken-image"))]
    config = write_config(
        tmp_path,
        manifest={"path": str(manifest), "carry": ["topic"]},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model())},
        resources={"address": ray_head.address},
        run={"max_reject_fraction": 0.05, "max_delete_fraction": 0.5},
    )
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), manifest)
    done = run_job(config)
    assert done.returncode == 3, done.stdout  # one broken picture of twelve
    assert "run.max_reject_fraction" in done.stdout
    before = {row["id"]: row for row in read_live(str(tmp_path / "out")).to_pylist()}

    changed = [dict(row) for row in rows if row["id"] != "text-ja"]
    next(row for row in changed if row["id"] == "text-de")["text"] = "Etwas ganz anderes."
    changed.append({"id": "text-new", "text": "new"})
    next(row for row in changed if row["id"] == "text-en")["topic"] = "another topic"
    (tmp_path / "lake/media/truncated.jpg").write_bytes((tmp_path / "lake/media/beach.jpg").read_bytes())
    pq.write_table(pa.Table.from_pylist(changed, SCHEMA), manifest)
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    store = open_store(str(tmp_path / "out"), {})
    counts = last_summary(store)["counts"]
    assert (counts["new"], counts["changed"], counts["deleted"], counts["encoded"]) == (1, 2, 1, 3)
    assert counts["carried"] == 1
    after = {row["id"]: row for row in read_live(store).to_pylist()}
    assert after.keys() == (before.keys() | {"text-new", "broken-image"}) - {"text-ja"}
    assert after["text-de"]["vector"] != before["text-de"]["vector"]
    assert after["broken-image"]["vector"] == after["image-beach"]["vector"]
    assert all(after[name] == before[name] for name in before.keys() - {"text-de", "text-ja", "text-en"})
    assert after["text-en"] == before["text-en"] | {"topic": "another topic"}
    assert read_live(store, "rejects").num_rows == 0
    assert verify(store) == []

    # Other carried columns, and another vector column, which the stored floats give.
    vectors = "output.vectors=[{name: vector, dtype: float32}, {name: small, dim: 8, dtype: int8}]"
    done = run_job(config, "--set", "manifest.carry=[instruction, topic]", "--set", vectors)
    assert done.returncode == 0, done.stdout
    assert (last_summary(store)["counts"]["encoded"], last_summary(store)["seconds"]["encode"]) == (0, 0.0)
    again = {row["id"]: row for row in read_live(store).to_pylist()}
    said = {row["id"]: row.get("instruction") for row in changed}
    for id_, row in after.items():
        small = quantize(np.array([row["vector"]], np.float32), [VectorSpec(name="small", dim=8)]).columns
        expected = row | {"instruction": said[id_], "small": small["small"][0].tolist(), "small_scale": ANY}
        assert again.pop(id_) == expected
    assert not again
    assert verify(store) == []


@pytest.mark.slow
def test_another_task_recomputes_the_whole_index(embedded: Embedded, tmp_path: Path) -> None:
    shutil.copytree(embedded.store.full(""), tmp_path / "out")
    store = open_store(str(tmp_path / "out"), {})
    before = {row["id"]: row for row in read_live(store).to_pylist()}
    other = ("--set", "inputs.instruction=Another task", "--set", "run.on_recompute=all")
    done = run_job(embedded.config, *other, "--set", f"output.path={store.root}")
    assert done.returncode == 0, done.stdout
    counts = last_summary(store)["counts"]
    assert (counts["recomputed"], counts["deleted"]) == (len(sample_rows()), 0)
    assert counts["encoded"] + counts["rejects"] + counts["duplicates"] == len(sample_rows())
    anew = {row["id"]: row for row in read_live(store).to_pylist()}
    assert anew.keys() == before.keys()
    # Rows with an instruction of their own have the prompt that they had.
    own = {row["id"] for row in sample_rows() if row.get("instruction")}
    assert {id_ for id_, row in anew.items() if row["vector"] == before[id_]["vector"]} == own
    assert verify(store) == []
