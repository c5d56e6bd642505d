"""The golden cases through the whole job on Ray: manifest, workers, Parquet, and back within 1e-5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.types import LoadedItem, MediaKind
from tests.fixtures.golden_cases import EMBED_NAMES, embed_item, golden_embed
from tests.fixtures.jobs import read_live, run_job, write_config
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.ray

INLINE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("text", pa.list_(pa.string())),
        pa.field("image", pa.list_(INLINE)),  # Hugging Face's image type, the bytes inline
        pa.field("video", pa.string()),
        pa.field("frames", pa.list_(pa.string())),
        pa.field("instruction", pa.string()),
        pa.field("fps", pa.float64()),
        pa.field("max_frames", pa.int32()),
    ]
)

# The manifest has one `frames` column a row: the case with two frame lists has no row that could hold it.
NAMES = [name for name in EMBED_NAMES if name != "two_videos"]


def test_every_case_that_a_manifest_can_hold(tmp_path: Path, ray_head: RayHead) -> None:
    assert len(NAMES) == 20
    rows = [_row(name, embed_item(name), tmp_path) for name in NAMES]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "manifest.parquet")
    config = write_config(
        tmp_path,
        manifest={"path": str(tmp_path / "manifest.parquet")},
        output={"path": str(tmp_path / "out")},
        model={"path": str(tiny_model())},
        resources={"address": ray_head.address},
        run={"block_items": 4, "window_tokens": 4000},
    )
    done = run_job(config)
    assert done.returncode == 0, done.stdout
    got = {row["id"]: row for row in read_live(str(tmp_path / "out")).to_pylist()}
    assert got.keys() == set(NAMES)
    for name in NAMES:
        expected = golden_embed(name)
        assert got[name]["n_tokens"] == sum(count for _, count in expected["input_ids"]), name
        distance = np.abs(np.array(got[name]["vector"]) - np.array(expected["embedding"])).max()
        assert distance <= 1e-5, (name, distance)


def _row(name: str, item: LoadedItem, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": name,
        # An empty user turn is a text; no text at all is NULL.
        "text": list(item.texts) if item.texts else None,
        "image": [],
        "instruction": item.instruction,
        "fps": item.fps,
        "max_frames": item.max_frames,
    }
    for number, medium in enumerate(item.media):
        if medium.kind is MediaKind.IMAGE:
            row["image"].append({"bytes": medium.blobs[0], "path": None})
            continue
        paths = []
        for index, blob in enumerate(medium.blobs):
            path = folder / f"{name}-{number}-{index}"  # no extension: content decides
            path.write_bytes(blob)
            paths.append(path.name)
        row |= {"frames": paths} if medium.kind is MediaKind.FRAMES else {"video": paths[0]}
    return row
