"""A manifest runs no code and no string in it ends the run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ManifestError
from tests.fixtures.manifests import opened, rows_of
from tests.fixtures.planted import Planted, unpickled

UNSAFE = [
    "arrow.py_extension_type",
    "ray.data.arrow_tensor",
    "ray.data.arrow_tensor_v2",
    "ray.data.arrow_variable_shaped_tensor",
    "ray.data.arrow_pickled_object",
    "ray.air.arrow_tensor",
]


def planted_table(name: str, trap: Path) -> pa.Table:
    """Rows with a column whose type is called `name` and whose metadata is a pickle that makes `trap`."""
    declared = {"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Planted(trap))}
    schema = pa.schema(
        [pa.field("id", pa.string()), pa.field("text", pa.string()), pa.field("x", pa.binary(), metadata=declared)]
    )
    return pa.table([["1"], ["t"], [pickle.dumps(Planted(trap))]], schema=schema)


def as_parquet(table: pa.Table, folder: Path) -> Path:
    pq.write_table(table, folder / "m.parquet")
    return folder / "m.parquet"


def as_dataset(table: pa.Table, folder: Path) -> Path:
    """What Hugging Face's `save_to_disk` leaves."""
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as out:
        out.write_table(table)
    return folder


def as_other_thrift(table: pa.Table, folder: Path) -> Path:
    """The same Parquet file, its metadata pair written in Thrift's long form, which parsers read as well."""
    path = as_parquet(table, folder)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8].replace(b"ARROW:schema\x18", b"ARROW:schema\x08\x04")
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return path


@pytest.mark.parametrize("write", [as_parquet, as_other_thrift, as_dataset])
@pytest.mark.parametrize("name", UNSAFE)
def test_types_that_unpickle_are_refused_and_nothing_runs(
    name: str, write: Callable[[pa.Table, Path], Path], tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "m").mkdir()
    path = write(planted_table(name, trap), tmp_path / "m")
    unpickled.clear()
    with pytest.raises(ManifestError, match=f"extension type {name}"):
        rows_of(opened(path))
    assert unpickled == []
    assert not trap.exists()
    # The trap is a real one.
    pickle.loads(pickle.dumps(Planted(trap)))
    assert trap.exists()
    assert unpickled


def test_other_writings_of_the_pair_are_read_by_pyarrow(tmp_path: Path) -> None:
    path = as_other_thrift(pa.table({"id": ["1"], "text": ["t"]}), tmp_path)
    assert b"ARROW:schema" in pq.read_metadata(path).metadata
    assert [row.texts for row in rows_of(opened(path))] == [("t",)]


def test_a_footer_that_takes_the_whole_file_is_searched_too(tmp_path: Path) -> None:
    path = as_parquet(planted_table(UNSAFE[0], tmp_path / "trap"), tmp_path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[-8 - length :])  # no magic in front: pyarrow does not ask for one
    with pytest.raises(ManifestError, match="extension type"):
        opened(path)


def broken(values: list[bytes | None]) -> pa.Array:
    """Strings of bytes that nobody checked."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_strings_that_are_no_utf8_are_mended_and_touch_no_other(tmp_path: Path) -> None:
    texts = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), broken([b"a\xff", b"b", b"\xed\xa0\x80"]))
    table = pa.table({"id": ["1", "2", "3"], "text": texts, "instruction": broken([b"do", None, b"\xc3("])})
    path = as_parquet(table, tmp_path)
    with pytest.raises(UnicodeDecodeError):
        pq.read_table(path).to_pylist()
    rows = rows_of(opened(path))
    assert [row.texts for row in rows] == [("a\ufffd", "b"), (), ("\ufffd\ufffd\ufffd",)]
    assert [row.instruction for row in rows] == ["do", None, "\ufffd("]
