"""A bucket's prefix and a delivered inventory on a real S3 server, planned and fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline.config import Config
from pipeline.fetch import Fetcher
from pipeline.index.commits import FileEntry
from pipeline.manifest.manifest import Manifest, open_manifest
from pipeline.manifest.work import from_work_table
from pipeline.plan import Plan, make_plan
from pipeline.policy import FetchPolicy
from pipeline.storage import open_store
from pipeline.types import MediaKind, WorkItem
from tests.fixtures.index_cases import Row, part
from tests.fixtures.lakes import deliver, inventory_table
from tests.fixtures.manifests import job_config
from tests.fixtures.media import clip, encode_image, encode_video, photo
from tests.fixtures.s3_server import S3Server

pytestmark = pytest.mark.s3


def _config(server: S3Server, path: str, output: str, **manifest: Any) -> Config:
    return job_config(
        path, output, manifest={"path": path, **manifest}, fetch={"storage_options": server.storage_options}
    )


def _planned(config: Config, live: list[FileEntry] | None = None) -> tuple[Manifest, Plan, list[WorkItem]]:
    options = config.fetch.storage_options
    manifest = open_manifest(config.manifest, options, output=config.output.path)
    store = open_store(config.output.path, options)
    plan = make_plan(config, manifest, store, run_id="r", compute_fingerprint="c", live=live or ())
    items: list[WorkItem] = []
    for path in plan.work_paths:
        with store.open_input(path) as file:
            items += from_work_table(pq.read_table(file))
    return manifest, plan, items


def test_a_prefix_is_listed_and_asked_no_more(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket, fs = s3_server.make_bucket("prefix"), s3_server.filesystem
    jpeg, movie = encode_image(photo(40, 30, 1), "JPEG"), encode_video(clip(4, 64, 48, 1), fps=2)
    media = {
        "a.jpg": jpeg,
        "deep/b é+%20.jpg": movie,
        "deep/c": jpeg,
        "deep/marker/": b"",
        "x.json": b"{}",
        "z.png": b"?",
    }
    for key, data in media.items():
        fs.call_s3("put_object", Bucket="prefix", Key=f"lake/{key}", Body=data)
    config = _config(s3_server, f"{bucket}/lake/", f"{bucket}/lake/out")
    # Pages of two, and no question but the listing.
    monkeypatch.setattr(s3fs.S3FileSystem, "call_s3", _two_a_page(s3fs.S3FileSystem.call_s3))
    monkeypatch.setattr(Fetcher, "stat", None)

    manifest, _, items = _planned(config)
    kept = ["a.jpg", "deep/b é+%20.jpg", "deep/c", "z.png"]
    assert [item.id for item in items] == [f"{bucket}/lake/{key}" for key in kept]
    # SeaweedFS lists no directory markers; S3 does.
    assert {**manifest.skipped, "directory_marker": 1} == {"directory_marker": 1, "not_media": 1}
    with Fetcher(FetchPolicy.of(config.fetch, manifest.folder)) as fetcher:
        loaded = [fetcher.load(item).media[0] for item in items]
    assert [one.kind for one in loaded] == [MediaKind.IMAGE, MediaKind.VIDEO, MediaKind.IMAGE, MediaKind.IMAGE]
    assert [one.blobs[0] for one in loaded] == [jpeg, movie, jpeg, b"?"]

    store = open_store(config.output.path, s3_server.storage_options)
    live = part(store, [Row(item.id, item.fingerprint) for item in items])
    assert _planned(config, live)[2] == []
    fs.pipe_file("prefix/lake/deep/c", b"another")
    fs.rm_file("prefix/lake/z.png")
    config = config.model_copy(update={"run": config.run.model_copy(update={"max_delete_fraction": 1.0})})
    _, plan, items = _planned(config, live)
    assert ([item.id for item in items], plan.counts.deleted) == ([f"{bucket}/lake/deep/c"], 1)


def test_an_inventory_on_s3_names_its_own_files(s3_server: S3Server, tmp_path: Path) -> None:
    bucket, fs = s3_server.make_bucket("reports"), s3_server.filesystem
    rows = [{"key": "a/ö +.jpg", "size": 3, "e_tag": "e"}, {"key": "b.mp4", "size": 4, "e_tag": "f"}]
    deliver(tmp_path / "daily", "2026-01-31-01-00", inventory_table(rows), "CSV")
    deliver(tmp_path / "daily", "2026-02-01-01-00", inventory_table(rows[:1]), "Parquet")
    fs.put(str(tmp_path / "daily"), "reports/daily", recursive=True)
    newest = f"{bucket}/daily", f"{bucket}/daily/hive/dt=2026-02-01-01-00/symlink.txt"
    for path in newest:
        _, _, items = _planned(_config(s3_server, path, f"{bucket}/out"))
        assert [item.id for item in items] == ["s3://lake/a/ö +.jpg"]
    older = _config(s3_server, f"{bucket}/daily/2026-01-31T01-00Z/manifest.json", f"{bucket}/out")
    first = _planned(older)[2]
    assert [item.id for item in first] == ["s3://lake/a/ö +.jpg", "s3://lake/b.mp4"]
    assert first[0].fingerprint == items[0].fingerprint


def _two_a_page(call: Any) -> Any:
    def paged(self: s3fs.S3FileSystem, method: str, *args: Any, **options: Any) -> Any:
        assert method == "list_objects_v2"
        return call(self, method, *args, MaxKeys=2, **options)

    return paged
