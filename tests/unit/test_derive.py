"""Vector columns made from stored ones, beside those that the model's own vectors would give."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import OwnershipError
from pipeline.index.derive import derivation_of, underivable
from pipeline.index.snapshot import spec_info
from pipeline.quantize import quantize
from pipeline.schema import vector_fields, vectors_schema

HIDDEN = 24
CARRY = [pa.field("label", pa.string())]
DTYPES = ("float32", "float16", "int8", "binary")
DIMS = (None, 8, 16)


def spec(name: str, dtype: str, dim: int | None = None) -> VectorSpec:
    return VectorSpec.model_validate({"name": name, "dtype": dtype, "dim": dim})


def stored_rows(vectors: NDArray[np.float32], specs: list[VectorSpec]) -> pa.RecordBatch:
    n = len(vectors)
    schema = vectors_schema(specs, HIDDEN, CARRY, pa.int64())
    made = quantize(vectors, specs)
    assert made.ok.all()
    facts = schema.names[1 + len(made.columns) :]
    rest = [pa.array([None] * n if name != "fingerprint" else ["f"] * n, schema.field(name).type) for name in facts]
    rest[-1] = pa.array([f"label {i}" for i in range(n)])
    return pa.RecordBatch.from_arrays([pa.array(range(n)), *made.arrays(), *rest], schema=schema)


def values(rows: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    column = rows.column(name)
    if pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(rows), -1)
    return np.asarray(column.to_numpy(), np.float64)


SPECS = st.lists(
    st.builds(spec, st.sampled_from("abcd"), st.sampled_from(DTYPES), st.sampled_from(DIMS)),
    min_size=1,
    max_size=3,
    unique_by=lambda each: each.name,
)
SEEDS = st.integers(0, 1000)


@given(SPECS, SPECS, SEEDS)
def test_what_is_made_is_what_the_model_s_vector_gives(
    stored: list[VectorSpec], wanted: list[VectorSpec], seed: int
) -> None:
    derivation = derivation_of(spec_info(stored, HIDDEN), wanted, HIDDEN)
    if derivation is None:
        assert underivable(spec_info(stored, HIDDEN), wanted, HIDDEN)
        return
    vectors = np.random.default_rng(seed).standard_normal((5, HIDDEN), np.float32) * 30
    rows = stored_rows(vectors, stored)
    made, direct = derivation.rows_of(rows), stored_rows(vectors, wanted)
    assert made.schema.equals(direct.schema)
    assert derivation.schema_of(rows.schema).equals(direct.schema)
    assert made.column("label").equals(direct.column("label"))
    has_float32 = {each.name for each in stored if each.dtype == "float32"}
    for column in derivation.columns:
        name, exact = column.spec.name, column.kept or column.source in has_float32
        here, there = values(made, name), values(direct, name)
        if column.kept:
            assert made.column(name).equals(direct.column(name))
        elif column.spec.dtype == "int8":
            assert np.abs(here - there).max() <= 1
            scales = values(made, f"{name}_scale"), values(direct, f"{name}_scale")
            np.testing.assert_allclose(*scales, rtol=1e-6 if exact else 2e-3)
        elif column.spec.dtype == "binary":
            assert (here == there).all()
        elif column.spec.dtype == "float32":
            assert np.abs(here - there).max() <= 1e-6
        else:
            assert np.abs(here - there).max() <= 2e-3  # two roundings to float16, of values up to 1


@given(SPECS, SPECS)
def test_what_cannot_be_made_has_no_float_that_is_long_and_fine_enough(
    stored: list[VectorSpec], wanted: list[VectorSpec]
) -> None:
    def made(each: VectorSpec) -> bool:
        dim = each.dim or HIDDEN
        same = any((each.dim, each.dtype) == (other.dim, other.dtype) for other in stored)
        fine = {"float32": ["float32"]}.get(each.dtype, ["float32", "float16"])
        return same or any(other.dtype in fine and (other.dim or HIDDEN) >= dim for other in stored)

    cannot = [(each.name, each.dtype) for each in wanted if not made(each)]
    found = underivable(spec_info(stored, HIDDEN), wanted, HIDDEN)
    assert [(each.name, each.dtype) for each in found] == cannot
    assert (derivation_of(spec_info(stored, HIDDEN), wanted, HIDDEN) is None) == bool(cannot)


def test_the_finest_float_is_taken_and_the_same_name_kept() -> None:
    stored = [spec("half", "float16"), spec("whole", "float32"), spec("other", "int8", 8), spec("code", "int8", 8)]
    wanted = [
        spec("small", "int8", 16),
        spec("code", "int8", 8),
        spec("renamed", "float16"),
        spec("short", "float16", 8),
    ]
    derivation = derivation_of(spec_info(stored, HIDDEN), wanted, HIDDEN)
    assert derivation is not None
    assert [(column.source, column.kept) for column in derivation.columns] == [
        ("whole", False), ("code", True), ("half", True), ("whole", False),
    ]  # fmt: skip


def test_files_that_have_the_wanted_columns_are_left_alone() -> None:
    stored, wanted = [spec("a", "float32")], [spec("a", "float32"), spec("b", "int8", 8)]
    derivation = derivation_of(spec_info(stored, HIDDEN), wanted, HIDDEN)
    assert derivation is not None
    rows = stored_rows(np.ones((2, HIDDEN), np.float32), wanted)
    assert derivation.rows_of(rows) is rows
    assert derivation.schema_of(rows.schema) is rows.schema


def test_a_vector_may_take_the_name_of_a_column_that_was_carried() -> None:
    rows = stored_rows(np.ones((2, HIDDEN), np.float32), [spec("a", "float32")])
    derivation = derivation_of(spec_info([spec("a", "float32")], HIDDEN), [spec("label", "int8", 8)], HIDDEN)
    assert derivation is not None
    made = derivation.rows_of(rows)
    assert made.schema.field("label").type == vector_fields([spec("label", "int8", 8)], HIDDEN)[0].type
    assert made.schema.names.count("label") == 1


def test_a_vector_without_length_after_the_cut_stops_with_its_id() -> None:
    vectors = np.ones((3, HIDDEN), np.float32)
    vectors[1, :8] = 0
    rows = stored_rows(vectors, [spec("a", "float32")])
    derivation = derivation_of(spec_info([spec("a", "float32")], HIDDEN), [spec("b", "int8", 8)], HIDDEN)
    assert derivation is not None
    with pytest.raises(OwnershipError, match=r"b cannot be made from the stored a: the vector of id 1 has no length"):
        derivation.rows_of(rows)
