"""The plan: what is written, what is resumed, what is refused, from real manifests and real index files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import IncompleteError, ManifestError, RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.index.commits import FileEntry
from pipeline.manifest.manifest import open_manifest
from pipeline.manifest.work import from_work_table
from pipeline.plan import Plan, make_plan
from pipeline.schema import ITEMS, work_schema
from pipeline.storage import Store, open_store
from pipeline.types import WorkItem
from tests.fixtures.index_cases import Kind, Row, part
from tests.fixtures.manifests import HOSTILE_IDS, job_config, write_jsonl, write_parquet
from tests.fixtures.s3_server import S3Server


def planned(config: Config, *, compute: str = "c", **options: Any) -> Plan:
    storage = config.fetch.storage_options
    manifest = open_manifest(config.manifest, storage, vectors=config.output.vectors)
    store = open_store(config.output.path, storage)
    return make_plan(config, manifest, store, run_id="r", compute_fingerprint=compute, **options)


def tables(store: Store, plan: Plan) -> list[pa.Table]:
    found = []
    for path in plan.work_paths:
        with store.open_input(path) as file:
            found.append(pq.read_table(file))
    return found


def work_of(config: Config, plan: Plan) -> list[WorkItem]:
    store = open_store(config.output.path, config.fetch.storage_options)
    return [item for table in tables(store, plan) for item in from_work_table(table)]


def finish(config: Config, plan: Plan, items: list[WorkItem], **what: str) -> list[FileEntry]:
    """Index files for `items`: vectors, but for the ids in `what` (retry or fatal)."""
    store = open_store(config.output.path)
    listed = [row for table in tables(store, plan) for row in table.to_pylist()]
    labels = {row["id"]: row.get("carry.label") for row in listed}
    rows = [Row(item.id, item.fingerprint, what.get(item.id, "vector"), label=labels.get(item.id)) for item in items]
    return part(store, rows, kind=Kind(plan.id_type, carry=plan.carry))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = write_jsonl(tmp_path / "m.jsonl", [{"id": f"i{n}", "text": f"t{n}", "label": n} for n in range(10)])
    return job_config(path, tmp_path / "out", manifest={"path": str(path), "carry": ["label"]})


def rewrite(config: Config, rows: list[dict[str, Any]]) -> None:
    write_jsonl(Path(config.manifest.path), rows)


def test_first_plan_lists_every_item_in_order(config: Config) -> None:
    plan = planned(config)
    store = open_store(config.output.path)
    [table] = tables(store, plan)
    assert table.schema.equals(work_schema(plan.carry))
    assert plan.carry == (pa.field("label", pa.int64()),)
    assert table.column("carry.label").to_pylist() == list(range(10))
    items = pq.read_table(store.full(plan.items_path))
    assert items.schema.equals(ITEMS)
    assert items.column("id").to_pylist() == table.column("id").to_pylist() == [f"i{n}" for n in range(10)]
    assert items.column("fingerprint").equals(table.column("fingerprint"))
    assert (plan.counts.items, plan.counts.new, plan.counts.to_do) == (10, 10, 10)
    assert plan.id_type == pa.string()
    assert {stored.path for stored in store.list()} == {plan.items_path, *plan.work_paths}


def test_a_finished_index_leaves_nothing_to_do(config: Config) -> None:
    first = planned(config)
    live = finish(config, first, work_of(config, first))
    second = planned(config, live=live)
    assert (second.counts.unchanged, second.counts.to_do, second.work_paths) == (10, 0, ())


def test_each_change_is_seen(config: Config) -> None:
    first = planned(config)
    items = work_of(config, first)
    live = finish(config, first, items, i3="retry", i4="fatal")
    rows = [{"id": item.id, "text": item.texts[0], "label": 0} for item in items[1:]]
    rows[0]["text"] = "other"
    rows[1]["instruction"] = "Find it"
    rows.append({"id": "fresh", "text": "t"})
    rewrite(config, rows)
    second = planned(config, live=live)
    assert [(item.id, item.attempts) for item in work_of(config, second)] == [
        ("i1", 0), ("i2", 0), ("i3", 1), ("fresh", 0),
    ]  # fmt: skip
    counts = second.counts
    assert (counts.new, counts.changed, counts.retryable, counts.carried, counts.unchanged) == (1, 2, 1, 5, 1)
    assert (counts.deleted, second.carried_path) == (1, "_work/r/carried.parquet")
    relabelled = pq.read_table(open_store(config.output.path).full(second.carried_path))
    assert relabelled.to_pydict() == {"id": ["i1", "i2", *(f"i{n}" for n in range(5, 10))], "carry.label": [0] * 7}


def test_another_compute_fingerprint_changes_everything(config: Config) -> None:
    first = planned(config)
    live = finish(config, first, work_of(config, first))
    assert planned(config, live=live, compute="d").counts.changed == 10


def test_parts_of_an_interrupted_run_are_done(config: Config) -> None:
    first = planned(config)
    items = work_of(config, first)
    parts = finish(config, first, items[:4], i1="retry")
    stale = part(open_store(config.output.path), [Row("i5", "an older state")])
    second = planned(config, parts=[*parts, *stale])
    assert (second.counts.new, second.counts.resumed, second.counts.to_do) == (10, 4, 6)
    assert work_of(config, second) == items[4:]


def test_spelling_of_the_instruction_does_not_count(config: Config) -> None:
    rewrite(
        config, [{"id": "a", "text": "t", "instruction": None}, {"id": "b", "text": "t", "instruction": "Find it."}]
    )
    default = job_config(config.manifest.path, config.output.path, inputs={"instruction": " Find it ", "dedupe": False})
    a, b = work_of(default, planned(default))
    assert a.fingerprint == b.fingerprint
    assert (a.instruction, b.instruction) == (None, "Find it."), "the row's own words travel on"


def test_touched_media_are_changed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    path = write_parquet(tmp_path / "m.parquet", {"id": [1, 2, 3], "image": ["a.png", "b.png", "gone.png"]})
    config = job_config(path, tmp_path / "out")
    first = planned(config)
    assert first.id_type == pa.int64()
    live = finish(config, first, work_of(config, first))
    os.utime(tmp_path / "b.png", ns=(5, 5))
    (tmp_path / "gone.png").write_bytes(b"x")
    assert [item.id for item in work_of(config, planned(config, live=live))] == ["2", "3"]


def test_inline_media_are_compared_by_content_and_stay_in_the_manifest(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1", "2"], "image": [b"x" * 100_000, b"y" * 100_000]})
    config = job_config(path, tmp_path / "out")
    first = planned(config)
    items = work_of(config, first)
    store = open_store(config.output.path)
    assert sum(stored.bytes for stored in store.list("_work")) < 20_000
    live = finish(config, first, items)
    write_parquet(path, {"id": ["2", "1"], "image": [b"y" * 100_000, b"z"]})
    [changed] = work_of(config, planned(config, live=live))
    assert (changed.id, changed.manifest_row) == ("1", 1)


def test_hostile_ids_go_through(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": list(HOSTILE_IDS), "text": list(HOSTILE_IDS)})
    config = job_config(path, tmp_path / "out")
    first = planned(config)
    items = work_of(config, first)
    assert [item.id for item in items] == list(HOSTILE_IDS)
    assert [item.texts for item in items] == [(id_,) for id_ in HOSTILE_IDS]
    assert planned(config, live=finish(config, first, items)).counts.unchanged == len(HOSTILE_IDS)


def test_duplicate_ids_are_refused_and_nothing_is_written(config: Config) -> None:
    rewrite(config, [{"id": n % 6, "text": "t"} for n in range(10)])
    no_carry = job_config(config.manifest.path, config.output.path)
    with pytest.raises(ManifestError, match=r"4 duplicate ids.*'0' \(2 rows\) .*m\.jsonl row 0, .*m\.jsonl row 6"):
        planned(no_carry)
    assert open_store(config.output.path).list() == []


WRITERS = {
    "m.parquet": lambda path, rows: write_parquet(path, {name: [row[name] for row in rows] for name in rows[0]}),
    "m.jsonl": write_jsonl,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("bad", "said"), [("i1", "'i1' \\(2 rows\\)"), (None, "null in 1 rows near row 9 ")])
def test_bad_ids_are_found_before_a_store_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, bad: str | None, said: str
) -> None:
    monkeypatch.setattr(Fetcher, "stat", lambda *_: pytest.fail("the store was asked"))
    rows: list[dict[str, Any]] = [{"id": f"i{n}", "image": f"{n}.png"} for n in range(9)]
    path = WRITERS[name](tmp_path / name, [*rows, {"id": bad, "image": "x.png"}])
    with pytest.raises(ManifestError, match=said):
        planned(job_config(path, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_ids_after_max_items_are_not_judged(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["a", "b", "a", None], "text": ["t"] * 4})
    assert planned(job_config(path, tmp_path / "out", run={"max_items": 2})).counts.items == 2


def test_a_store_that_refuses_everything_stops_the_plan_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def denied(_: Fetcher, uri: str) -> None:
        asked.append(uri)
        raise RejectError(RejectCode.ACCESS_DENIED, "ExpiredToken")

    monkeypatch.setattr(Fetcher, "stat", denied)
    rows: dict[str, list[Any]] = {"id": list(range(3000)), "image": [f"{n}.png" for n in range(3000)]}
    path = write_parquet(tmp_path / "m.parquet", rows)
    with pytest.raises(IncompleteError, match="ACCESS_DENIED: ExpiredToken; check credentials; nothing was changed"):
        planned(job_config(path, tmp_path / "out"))
    assert 200 <= len(asked) < 300
    del rows["id"][100:], rows["image"][100:]
    write_parquet(path, rows)
    with pytest.raises(IncompleteError, match="100 of 100 questions"):
        planned(job_config(path, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_manifest_that_shrank_too_much_is_refused(config: Config) -> None:
    first = planned(config)
    items = work_of(config, first)
    live = finish(config, first, items)
    rewrite(config, [{"id": item.id, "text": item.texts[0], "label": 1} for item in items[:8]])
    assert planned(config, live=live).counts.deleted == 2
    rewrite(config, [{"id": item.id, "text": item.texts[0], "label": 1} for item in items[:7]])
    with pytest.raises(ManifestError, match=r"lacks 3 of the index's 10 ids.*run\.max_delete_fraction=1") as error:
        planned(config, live=live)
    assert error.value.exit_code == 2
    allowed = config.model_copy(update={"run": config.run.model_copy(update={"max_delete_fraction": 1.0})})
    assert planned(allowed, live=live).counts.deleted == 3


def test_max_items_plans_the_first_rows_only(config: Config) -> None:
    few = config.model_copy(update={"run": config.run.model_copy(update={"max_items": 4})})
    plan = planned(few)
    assert [item.id for item in work_of(few, plan)] == ["i0", "i1", "i2", "i3"]
    assert plan.counts.items == 4
    live = finish(config, plan, work_of(config, planned(config)))
    with pytest.raises(ManifestError, match=r"run\.max_items looks at the first 4 rows"):
        planned(few, live=live)


def test_the_work_list_may_go_elsewhere(config: Config, tmp_path: Path) -> None:
    aside = open_store(str(tmp_path / "aside"))
    plan = planned(config, work_store=aside)
    assert sum(table.num_rows for table in tables(aside, plan)) == 10
    assert not Path(config.output.path).exists()


@pytest.mark.parametrize(("rows", "block"), [(5000, 10), (5000, 64), (65, 64), (64, 64), (1, 64)])
def test_work_files_are_many_and_their_row_groups_are_blocks(tmp_path: Path, rows: int, block: int) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(rows)), "text": [f"t{n}" for n in range(rows)]})
    config = job_config(path, tmp_path / "out", run={"block_items": block})
    plan = planned(config)
    store = open_store(config.output.path)
    metas = [pq.read_metadata(store.full(path)) for path in plan.work_paths]
    sizes = [meta.row_group(group).num_rows for meta in metas for group in range(meta.num_row_groups)]
    assert len(plan.work_paths) <= 32
    assert len(plan.work_paths) >= min(16, rows // block)
    assert sum(sizes) == rows
    assert all(size == block for size in sizes[:-1])
    assert [item.id for item in work_of(config, plan)] == [str(n) for n in range(rows)]


def test_only_what_is_to_do_is_listed_over_many_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.manifest.parquet_files.BATCH_ROWS", 97)
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(1000)), "text": [f"t{n}" for n in range(1000)]})
    config = job_config(path, tmp_path / "out")
    first = planned(config)
    items = work_of(config, first)
    live = finish(config, first, [item for item in items if int(item.id) % 13])
    assert work_of(config, planned(config, live=live)) == [item for item in items if int(item.id) % 13 == 0]


@pytest.mark.s3
def test_a_manifest_and_an_output_on_s3(s3_server: S3Server) -> None:
    bucket = s3_server.make_bucket("plan")
    fs = s3_server.filesystem
    with fs.open("plan/m/a.parquet", "wb") as file:
        pq.write_table(pa.table({"id": ["1", "2"], "image": [None, b"inline"], "text": ["t", None]}), file)
    with fs.open("plan/m/b.parquet", "wb") as file:
        pq.write_table(pa.table({"id": ["3"], "image": ["../media/a.png"]}), file)
    fs.pipe_file("plan/media/a.png", b"x")
    config = job_config(f"{bucket}/m", f"{bucket}/out", fetch={"storage_options": s3_server.storage_options})
    items = work_of(config, planned(config))
    assert [item.id for item in items] == ["1", "2", "3"]
    assert items[2].media[0].refs[0].uri == f"{bucket}/media/a.png"
    assert items[1].manifest_file == f"{bucket}/m/a.parquet"
    store = open_store(config.output.path, s3_server.storage_options)
    live = part(store, [Row(item.id, item.fingerprint) for item in items])
    fs.pipe_file("plan/media/a.png", b"y")
    assert [item.id for item in work_of(config, planned(config, live=live))] == ["3"]
