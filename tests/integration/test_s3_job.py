"""The whole job with manifest, media and output on a real S3 server, bit for bit what it is on local files."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.index.verify import verify
from pipeline.storage import open_store
from tests.fixtures.corpus import SCHEMA, media_files, sample_rows, write_corpus
from tests.fixtures.faulty_proxy import Faults, FaultyProxy
from tests.fixtures.jobs import last_summary, read_live, run_job, start_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.s3_server import S3Server
from tests.fixtures.tiny_model import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.s3]


def test_manifest_media_and_output_on_s3(
    tmp_path: Path, ray_head: RayHead, s3_server: S3Server, s3_bucket: str
) -> None:
    place = f"{s3_bucket}/{uuid.uuid4().hex}"
    options = s3_server.storage_options
    lake = open_store(f"{place}/lake", options)
    for name, data in media_files().items():
        lake.put(name, data)
    rows = [*sample_rows(), {"id": "missing", "image": "media/no_such.jpg"}, {"id": "local", "image": "/etc/hostname"}]
    with lake.open_output("manifests/a.parquet") as file:
        pq.write_table(pa.Table.from_pylist(_in_folder(rows[:9], "../"), SCHEMA), file)
    with lake.open_output("manifests/b.parquet") as file:
        pq.write_table(pa.Table.from_pylist(_in_folder(rows[9:], f"{place}/lake/"), SCHEMA), file)
    config = write_config(
        tmp_path / "s3",
        manifest={"path": f"{place}/lake/manifests/"},
        output={"path": f"{place}/out"},
        model={"path": str(tiny_model())},
        fetch={"storage_options": options, "schemes": ["s3"]},
        resources={"address": ray_head.address},
        run={"max_reject_fraction": 0.5},
    )
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    out = open_store(f"{place}/out", options)
    rejects = {row["id"]: row["code"] for row in read_live(out, "rejects").to_pylist()}
    assert rejects == {
        "broken-image": "IMAGE_UNREADABLE",
        "broken-video": "UNSUPPORTED_FORMAT",
        "missing": "NOT_FOUND",
        "local": "URI_NOT_ALLOWED",
    }
    assert verify(out) == []
    assert s3_server.storage_options["s3"]["secret"] not in done.stdout + str(last_summary(out))

    again = run_job(config, timeout_s=200, RAY_ADDRESS="127.0.0.1:1")
    assert again.returncode == 0, again.stdout
    assert last_summary(out)["counts"]["encoded"] == 0

    local = write_config(
        tmp_path / "local",
        manifest={"path": str(write_corpus(tmp_path / "lake"))},
        output={"path": str(tmp_path / "local" / "out")},
        model={"path": str(tiny_model())},
        resources={"address": ray_head.address},
        run={"max_reject_fraction": 0.2},
    )
    assert run_job(local).returncode == 0
    same = ["id", "vector", "n_tokens", "content_hash"]
    assert read_live(out).select(same).equals(read_live(str(tmp_path / "local" / "out")).select(same))


@pytest.mark.slow
def test_a_job_whose_store_throttles_says_so_waits_and_ends(
    tmp_path: Path, ray_head: RayHead, s3_server: S3Server, s3_bucket: str
) -> None:
    place = f"{s3_bucket}/{uuid.uuid4().hex}"
    lake = open_store(place, s3_server.storage_options)
    for name, data in media_files().items():
        lake.put(name, data)
    with lake.open_output("m.parquet") as file:
        pq.write_table(pa.Table.from_pylist(sample_rows(), SCHEMA), file)
    with FaultyProxy(s3_server.endpoint_url, faults=Faults(slow=0.2, all_slow=True, only="/media/")) as proxy:
        options = {"s3": {**s3_server.storage_options["s3"], "endpoint_url": proxy.endpoint_url}}
        config = write_config(
            tmp_path,
            manifest={"path": f"{place}/m.parquet"},
            output={"path": str(tmp_path / "out")},
            model={"path": str(tiny_model())},
            inputs={"identity": "trust"},
            fetch={"storage_options": options, "timeout_s": 5, "retries": 1},
            resources={"address": ray_head.address},
            run={"max_reject_fraction": 0.5},
        )
        job = start_job(config)
        while not proxy.counts["slow"]:
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.1)
        over = threading.Timer(15, lambda: setattr(proxy.faults, "all_slow", False))
        over.start()
        said, _ = job.communicate(timeout=240)
        over.join()
    assert job.returncode == 0, said
    assert "the store of s3:// answers 503 to every request" in said
    assert "the store of s3:// answers again" in said
    rejects = {row["id"]: row["code"] for row in read_live(str(tmp_path / "out"), "rejects").to_pylist()}
    assert rejects == {"broken-image": "IMAGE_UNREADABLE", "broken-video": "UNSUPPORTED_FORMAT"}


def _in_folder(rows: list[dict[str, object]], prefix: str) -> list[dict[str, object]]:
    def placed(uri: str) -> str:
        return uri if uri.startswith("/") else prefix + uri

    moved = []
    for row in rows:
        row = dict(row)
        for name in ("image", "video"):
            if isinstance(row.get(name), str):
                row[name] = placed(str(row[name]))
        if isinstance(row.get("frames"), list):
            row["frames"] = [placed(uri) for uri in row["frames"]]  # type: ignore[attr-defined]
        moved.append(row)
    return moved
