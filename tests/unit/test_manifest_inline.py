"""Inline media are found again by file and row."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.inline import InlineReader
from tests.fixtures.manifests import HF_IMAGE, opened, rows_of, write_parquet

N = 300


def blob(i: int) -> bytes:
    return bytes([i % 256]) * (1000 + i)


@pytest.mark.parametrize("cache_bytes", [0, 5_000, 1 << 30])
def test_every_cell_in_any_order(tmp_path: Path, cache_bytes: int) -> None:
    path = write_parquet(
        tmp_path / "m.parquet",
        {
            "id": list(range(N)),
            "image": [blob(i) for i in range(N)],
            "frames": pa.array([[{"bytes": blob(i)}, {"bytes": blob(i + 1)}] for i in range(N)], pa.list_(HF_IMAGE)),
        },
        row_group_size=170,
    )
    reader = InlineReader({}, cache_bytes)
    order = list(range(N))
    random.Random(1).shuffle(order)
    for i in [*range(0, N, 7), *order[:60]]:
        assert reader.read(str(path), i, "image", 0) == blob(i)
        assert reader.read(str(path), i, "frames", 1) == blob(i + 1)


def test_in_order_every_byte_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": list(range(N)), "image": [blob(i) for i in range(N)]})
    reads: list[int] = []
    real = InlineReader._keep

    def spy(self: InlineReader, key: tuple[str, str, int], first: int, values: pa.Array) -> None:
        reads.append(first)
        real(self, key, first, values)

    monkeypatch.setattr(InlineReader, "_keep", spy)
    reader = InlineReader({}, 0)
    for i in range(N):
        reader.read(str(path), i, "image", 0)
    assert reads == sorted(set(reads))
    assert len(reads) < N / 10


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"x"], pa.large_binary()),
        pa.array([b"x"], pa.binary_view()),
        pa.array([b"x"]).dictionary_encode(),
        pa.array([b"x"], pa.binary(1)),
        pa.array([[b"x"]], pa.large_list(pa.binary())),
        pa.array([[b"x"]], pa.list_(pa.binary(), 1)),
        pa.array([{"bytes": b"x", "path": None}], HF_IMAGE),
    ],
    ids=str,
)
def test_every_form_that_rows_refer_to(tmp_path: Path, values: pa.Array) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "image": values})
    [row] = rows_of(opened(path))
    [ref] = row.media[0].refs
    assert ref.uri is None
    assert InlineReader({}).read(str(path), row.row, ref.column, ref.index) == b"x"


@pytest.mark.parametrize(
    ("row", "column", "index"), [(0, "image", 0), (5, "image", 0), (1, "gone", 0), (1, "frames", 9), (0, "frames", 0)]
)
def test_a_manifest_that_changed_is_a_retryable_reject(tmp_path: Path, row: int, column: str, index: int) -> None:
    path = write_parquet(tmp_path / "m.parquet", {"id": [1, 2], "image": [None, b"x"], "frames": [None, [b"x"]]})
    with pytest.raises(RejectError) as error:
        InlineReader({}).read(str(path), row, column, index)
    assert error.value.code is (RejectCode.FETCH_FAILED if column == "gone" else RejectCode.SOURCE_CHANGED)


def test_a_manifest_that_vanished_is_a_retryable_reject(tmp_path: Path) -> None:
    with pytest.raises(RejectError) as error:
        InlineReader({}).read(str(tmp_path / "none.parquet"), 0, "image", 0)
    assert error.value.code is RejectCode.FETCH_FAILED


def test_a_read_that_failed_once_does_not_spoil_the_rows_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [bytes([n]) * 50 for n in range(20)]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image": pa.array(blobs, pa.binary())}), path)
    reader = InlineReader({})
    opened = InlineReader._open
    failures = iter([OSError("reset"), OSError("reset")])

    def flaky(self: InlineReader, file: str) -> object:
        if (error := next(failures, None)) is not None:
            raise error
        return opened(self, file)

    monkeypatch.setattr(InlineReader, "_open", flaky)
    assert [reader.read(str(path), row, "image", 0) for row in range(20)] == blobs
