"""Estimates: samples that are really fetched, with a stand-in only for the token count."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.assembly import modality_of
from pipeline.config import Config, FetchConfig, VectorSpec
from pipeline.errors import RejectCode, RejectError
from pipeline.estimate import count_modalities, estimate, sample_items, spread_of, vector_bytes
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.manifest.manifest import open_manifest
from pipeline.plan import Plan, make_plan
from pipeline.storage import Store, open_store
from pipeline.types import LoadedItem, Modality, Prepared, WorkItem
from tests.fixtures.manifests import job_config, write_jsonl, write_parquet


def planned(config: Config) -> tuple[Plan, Store]:
    store = open_store(config.output.path)
    manifest = open_manifest(config.manifest, {})
    return make_plan(config, manifest, store, run_id="r", compute_fingerprint="c"), store


def prepare(item: LoadedItem) -> Prepared:
    """As many text tokens as characters and visual tokens as bytes; an item `bad…` is refused."""
    if item.id.startswith("bad"):
        raise RejectError(RejectCode.IMAGE_UNREADABLE, "as asked")
    visual = sum(len(blob) for media in item.media for blob in media.blobs)
    n = visual + sum(map(len, item.texts))
    return Prepared(
        item.id, np.zeros(n, np.int32), np.zeros((3, n), np.int32), (), Modality.TEXT, visual, 0, False, "h"
    )


SPECS = (
    VectorSpec(name="v", dim=64),
    VectorSpec(name="b", dim=64, dtype="binary"),
    VectorSpec(name="f", dtype="float16"),
)


def test_a_whole_sample_is_exact(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 7)
    rows = [{"id": f"i{n}", "text": "t" * n, "image": "a.png" if n % 2 else None} for n in range(10)]
    rows += [{"id": "bad", "text": "t"}, {"id": "gone", "image": "none.png"}]
    config = job_config(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out")
    plan, store = planned(config)
    with Fetcher(FetchPolicy.of(FetchConfig(), str(tmp_path))) as fetcher:
        found = estimate(plan, store, load_many=fetcher.load_many, prepare=prepare, specs=SPECS, hidden_dim=128)
    assert (found.items, found.sampled) == (12, 12)
    assert found.rejects == {"IMAGE_UNREADABLE": 1, "NOT_FOUND": 1}
    assert found.text_tokens.total == pytest.approx(45)
    assert found.text_tokens.total_error == 0
    assert found.visual_tokens.mean == 3.5
    assert found.visual_tokens.total == pytest.approx(35)
    assert found.vector_bytes == {"v": 12 * 68, "b": 12 * 8, "f": 12 * 256}
    assert found.by_modality == {Modality.TEXT: 6, Modality.IMAGE: 1, Modality.VIDEO: 0, Modality.MIXED: 5}


def test_vectors_are_written_for_duplicates_too(tmp_path: Path) -> None:
    rows = [{"id": f"i{n}", "text": "t" * (n % 4)} for n in range(12)]
    plan, store = planned(job_config(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out"))
    with Fetcher(FetchPolicy.of(FetchConfig())) as fetcher:
        found = estimate(plan, store, load_many=fetcher.load_many, prepare=prepare, specs=SPECS, hidden_dim=128)
    assert (found.items, found.sampled) == (4, 4)
    assert found.vector_bytes == {"v": 12 * 68, "b": 12 * 8, "f": 12 * 256}


def test_a_sample_tells_the_whole_within_its_error(tmp_path: Path) -> None:
    lengths = np.random.default_rng(3).integers(0, 100, 3000)
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(3000)), "text": ["t" * n for n in lengths]})
    plan, store = planned(job_config(path, tmp_path / "out", inputs={"dedupe": False}))
    with Fetcher(FetchPolicy.of(FetchConfig(), str(tmp_path))) as fetcher:
        found = estimate(
            plan, store, load_many=fetcher.load_many, prepare=prepare, specs=SPECS, hidden_dim=128, n_samples=300
        )
    assert found.sampled == 300
    assert 0 < found.text_tokens.total_error < 0.15 * found.text_tokens.total
    assert abs(found.text_tokens.total - lengths.sum()) < 2 * found.text_tokens.total_error


def test_time_ends_a_sample(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(500)), "text": ["t"] * 500})
    plan, store = planned(job_config(path, tmp_path / "out", inputs={"dedupe": False}))

    def slow(items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        for item in items:
            time.sleep(0.02)
            yield item, LoadedItem(item.id, item.texts, ())

    found = estimate(plan, store, load_many=slow, prepare=prepare, specs=SPECS, hidden_dim=8, max_s=0.2)
    assert 0 < found.sampled < 50
    assert found.text_tokens.total == 500


def test_nothing_to_do_costs_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    plan, _ = planned(job_config(write_jsonl(tmp_path / "m.jsonl", [{"id": 1, "text": "t"}]), tmp_path / "out"))
    nothing = Plan("r", plan.items_path, (), None, plan.id_type, (), plan.counts)
    with Fetcher(FetchPolicy.of(FetchConfig())) as fetcher:
        found = estimate(nothing, store, load_many=fetcher.load_many, prepare=prepare, specs=SPECS, hidden_dim=8)
    assert (found.sampled, found.text_tokens.total, sum(found.by_modality.values())) == (0, 0.0, 0)


def test_samples_are_evenly_spaced_and_always_the_same(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(1000)), "text": ["t"] * 1000})
    plan, store = planned(job_config(path, tmp_path / "out", inputs={"dedupe": False}, run={"block_items": 16}))
    once, twice = ([item.id for item in sample_items(store, plan.work_paths, 100)] for _ in range(2))
    assert once == twice
    assert once != sorted(once, key=int)
    gaps = np.diff(sorted(map(int, once)))
    assert len(once) == 100
    assert set(gaps.tolist()) <= {10, 11}


def test_modalities_are_counted_as_they_will_be_written(tmp_path: Path) -> None:
    held = {"text": ["t"], "empty": [""], "image": ["a"], "video": ["v"], "frames": ["f1", "f2"]}
    rows = []
    for n, names in enumerate(itertools.chain.from_iterable(itertools.combinations(held, k) for k in range(6))):
        row = {name: held[name] for name in names if name not in ("text", "empty")}
        texts = [text for name in ("text", "empty") if name in names for text in held[name]]
        rows.append({"id": n, "text": texts or None, **row})
    config = job_config(write_jsonl(tmp_path / "m.jsonl", rows), tmp_path / "out", inputs={"identity": "trust"})
    plan, store = planned(config)
    items = list(sample_items(store, plan.work_paths, 1000))
    expected = dict.fromkeys(Modality, 0)
    for item in items:
        expected[modality_of(item.texts, item.media)] += 1  # type: ignore[arg-type]
    assert len(items) == 32
    assert count_modalities(store, plan.work_paths) == expected


def test_files_that_may_be_either_are_counted_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    for name in ("a.jpg", "b.MP4", "c.mov", "noname"):
        (tmp_path / "lake" / name).write_bytes(b"x")
    plan, store = planned(job_config(tmp_path / "lake", tmp_path / "out"))
    found = count_modalities(store, plan.work_paths)
    assert found == {Modality.TEXT: 0, Modality.IMAGE: 2, Modality.VIDEO: 2, Modality.MIXED: 0}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.integers(0, 500))
def test_spread(values: list[int], more: int) -> None:
    found = spread_of(values, len(values) + more)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.total == pytest.approx(found.mean * (len(values) + more))
    assert found.total_error >= 0
    assert found.total_error == 0 or more > 0
    assert min(values) <= found.p95 <= max(values)


@pytest.mark.parametrize(
    ("dtype", "dim", "n_bytes"),
    [("float32", 8, 32), ("float16", 8, 16), ("int8", 8, 12), ("binary", 16, 2), ("int8", None, 132)],
)
def test_vector_bytes(dtype: str, dim: int | None, n_bytes: int) -> None:
    assert vector_bytes(VectorSpec.model_validate({"dtype": dtype, "dim": dim}), 128) == n_bytes
