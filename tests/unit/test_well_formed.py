"""Strings that are no UTF-8 are mended wherever Arrow types can hold them, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.manifest.well_formed import well_formed
from tests.fixtures.manifests import carried_of, opened

KINDS = st.recursive(
    st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.int32()]),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 2)),
        inner.map(lambda kind: pa.map_(pa.string(), kind)),
        inner.map(lambda kind: pa.struct([("bytes", pa.binary()), ("path", kind)])),
    ),
    max_leaves=3,
)
BYTES = st.binary(max_size=5)


def cells(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Cells of a column of `kind`, with any bytes for strings."""
    if pt.is_integer(kind):
        return st.none() | st.integers(0, 9)
    if pt.is_map(kind):
        return st.none() | st.lists(st.tuples(BYTES, cells(kind.item_type)), max_size=3)
    if pt.is_struct(kind):
        return st.none() | st.fixed_dictionaries({each.name: cells(each.type) for each in kind})
    if kind.num_fields:
        least, most = (2, 2) if pt.is_fixed_size_list(kind) else (0, 3)
        return st.none() | st.lists(cells(kind.value_type), min_size=least, max_size=most)
    return st.none() | BYTES


def as_bytes(kind: pa.DataType) -> pa.DataType:
    """`kind` with bytes in place of strings."""
    if pt.is_integer(kind):
        return kind
    if pt.is_map(kind):
        return pa.map_(pa.binary(), as_bytes(kind.item_type))
    if pt.is_struct(kind):
        return pa.struct([(each.name, as_bytes(each.type)) for each in kind])
    if pt.is_fixed_size_list(kind):
        return pa.list_(as_bytes(kind.value_type), 2)
    if kind.num_fields:
        return (pa.large_list if pt.is_large_list(kind) else pa.list_)(as_bytes(kind.value_type))
    return pa.binary()


def unchecked(values: list[Any], kind: pa.DataType) -> pa.Array:
    """`values`, with bytes for strings, as a writer that does not look at them leaves them."""
    return pc.cast(pa.array(values, as_bytes(kind)), options=pc.CastOptions(kind, allow_invalid_utf8=True))


def decoded(cell: Any, kind: pa.DataType) -> Any:
    if cell is None or pt.is_integer(kind):
        return cell
    if pt.is_map(kind):
        return [(decoded(key, kind.key_type), decoded(item, kind.item_type)) for key, item in cell]
    if pt.is_struct(kind):
        return {each.name: decoded(cell[each.name], each.type) for each in kind}
    if kind.num_fields:
        return [decoded(each, kind.value_type) for each in cell]
    return cell if pt.is_binary(kind) else cell.decode("utf-8", "replace")


def assert_mended(values: pa.Array, expected: list[Any]) -> None:
    table = pa.table({"x": values})
    mended = well_formed(table)
    mended.validate(full=True)
    assert mended.schema == table.schema
    assert mended.column("x").to_pylist() == expected


@given(st.data(), KINDS, st.integers(0, 3), st.integers(0, 3))
def test_any_bytes_in_any_types(data: st.DataObject, kind: pa.DataType, start: int, left: int) -> None:
    values = data.draw(st.lists(cells(kind), max_size=8))
    end = max(start, len(values) - left)
    # A slice, as readers give them.
    assert_mended(
        unchecked(values, kind).slice(start, end - start), [decoded(cell, kind) for cell in values[start:end]]
    )


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), max_size=6),
    st.sampled_from([(pa.ListViewArray, pa.int32()), (pa.LargeListViewArray, pa.int64())]),
    st.integers(0, 2),
)
def test_views_that_overlap_and_leave_gaps(
    cut: list[tuple[int, int]], kind: tuple[Any, pa.DataType], start: int
) -> None:
    words = [b"a\xff", None, b"\xc3(", b"d", b"\xf0", b"f"]
    views, size = kind
    offsets, sizes = (pa.array([each[at] for each in cut], size) for at in (0, 1))
    mask = pa.array([n % 3 == 2 for n in range(len(cut))], pa.bool_())
    array = views.from_arrays(offsets, sizes, unchecked(words, pa.string()), mask=mask)
    plain = [decoded(word, pa.string()) for word in words]
    expected = [None if n % 3 == 2 else plain[at : at + length] for n, (at, length) in enumerate(cut)]
    assert_mended(array.slice(start), expected[start:])


WORDS = unchecked([b"a\xff", b"b", None, b"\xed"], pa.string())
PLAIN = ["a\ufffd", "b", None, "\ufffd"]


@pytest.mark.parametrize("start", [0, 1])
def test_encodings_and_extensions_of_strings(start: int) -> None:
    places = pa.array([0, 3, None, 1], pa.int32())
    dictionary = pa.DictionaryArray.from_arrays(places, unchecked([b"\xff", b"b", b"c", b"d\xfe"], pa.string()))
    runs = pa.run_end_encoded(pa.int16(), pa.string())
    ends = pa.array([2, 3, 5, 6], pa.int16())
    for values, expected in (
        (dictionary, ["\ufffd", "d\ufffd", None, "b"]),
        (pa.StructArray.from_arrays([dictionary], ["d"]), [{"d": word} for word in ("\ufffd", "d\ufffd", None, "b")]),
        (pa.ExtensionArray.from_storage(pa.json_(), WORDS), PLAIN),
        (
            pa.Array.from_buffers(runs, 6, [None], children=[ends, WORDS]),
            [PLAIN[0], PLAIN[0], PLAIN[1], PLAIN[2], PLAIN[2], PLAIN[3]],
        ),
    ):
        assert_mended(values.slice(start), expected[start:])


def test_columns_that_are_valid_are_the_same_memory() -> None:
    table = pa.table({"x": pa.array([[("k", "v")]], pa.map_(pa.string(), pa.string())), "y": WORDS[:1]})
    assert (
        well_formed(table).column("x").chunk(0).buffers()[1].address == table.column("x").chunk(0).buffers()[1].address
    )


def test_a_parquet_manifest_carries_them_mended(tmp_path: Path) -> None:
    tags = unchecked([[(b"k\xff", b"v"), (b"l", None)], None], pa.map_(pa.string(), pa.string()))
    pair = unchecked([None, [b"\xff", b"b"]], pa.list_(pa.string(), 2))
    words = unchecked([b"a\xff", b"b", b"\xfe"], pa.string())
    view = pa.ListViewArray.from_arrays(pa.array([2, 0], pa.int32()), pa.array([1, 2], pa.int32()), words)
    note = pa.ExtensionArray.from_storage(pa.json_(), unchecked([b'"\xff"', b"1"], pa.string()))
    columns = {"id": ["1", "2"], "text": ["t", "u"], "tags": tags, "pair": pair, "view": view, "note": note}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    carried = carried_of(opened(tmp_path / "m.parquet", carry=("tags", "pair", "view", "note")))
    carried.validate(full=True)
    assert carried.to_pydict() == {
        "tags": [[("k\ufffd", "v"), ("l", None)], None],
        "pair": [None, ["\ufffd", "b"]],
        "view": [["\ufffd"], ["a\ufffd", "b"]],
        "note": ['"\ufffd"', "1"],
    }
