"""Quantisation: every stored dtype restores what it promises, and rows without a vector are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError
from pipeline.quantize import check_specs, formula, quantize
from pipeline.schema import vector_fields

HIDDEN = 16
FINITE = st.floats(-1e4, 1e4, width=32).map(np.float32)
ROWS = arrays(np.float32, st.tuples(st.integers(1, 8), st.just(HIDDEN)), elements=FINITE)


def spec(dtype: str, dim: int | None = None, name: str = "vector") -> VectorSpec:
    return VectorSpec.model_validate({"name": name, "dim": dim, "dtype": dtype})


def random_vectors(n: int = 200, dim: int = HIDDEN, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, dim), np.float32)


def unit(vectors: NDArray[np.float32], dim: int | None = None) -> NDArray[np.float64]:
    cut = vectors[:, :dim].astype(np.float64)
    normalised: NDArray[np.float64] = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    return normalised


@given(ROWS, st.sampled_from([None, 3, 8, 16]))
def test_int8_codes_restore_the_unit_vector_within_half_a_step(vectors: NDArray[np.float32], dim: int | None) -> None:
    quantized = quantize(vectors, [spec("int8", dim)])
    good = quantized.ok
    codes, scale = quantized.columns["vector"][good], quantized.columns["vector_scale"][good]
    assert codes.dtype == np.int8
    assert scale.dtype == np.float32
    restored = codes.astype(np.float64) * scale[:, None]
    error = np.abs(restored - unit(vectors[good], dim))
    assert (error <= scale[:, None] * 0.5 * (1 + 1e-4)).all()
    assert (np.abs(codes).max(axis=1, initial=0) == 127).all()


@given(ROWS)
def test_zero_rows_and_only_they_are_bad_among_finite_ones(vectors: NDArray[np.float32]) -> None:
    assert (quantize(vectors, [spec("float32")]).ok == vectors.any(axis=1)).all()


@given(ROWS, st.integers(1, HIDDEN))
def test_cutting_before_or_after_normalising_is_the_same(vectors: NDArray[np.float32], dim: int) -> None:
    vectors = vectors[np.abs(vectors[:, :dim]).max(axis=1) > 1e-3]
    if not len(vectors):
        vectors = random_vectors(2)
    direct = quantize(vectors, [spec("float32", dim)]).columns["vector"]
    whole = quantize(vectors, [spec("float32")]).columns["vector"]
    twice = quantize(whole, [spec("float32", dim)]).columns["vector"]
    np.testing.assert_allclose(direct, twice, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, HIDDEN - 1])
def test_a_non_finite_value_anywhere_makes_the_row_bad_even_beyond_the_cut(bad: float, place: int) -> None:
    vectors = random_vectors(3)
    vectors[1, place] = bad
    quantized = quantize(vectors, [spec("int8", 8)])
    assert quantized.ok.tolist() == [True, False, True]


def test_a_row_that_is_zero_under_one_spec_only_is_bad() -> None:
    vectors = random_vectors(2)
    vectors[0, :4] = 0
    quantized = quantize(vectors, [spec("float32", None, "whole"), spec("float32", 4, "head")])
    assert quantized.ok.tolist() == [False, True]


def test_huge_and_tiny_vectors_are_normalised_without_overflow() -> None:
    vectors = np.array([[3e38] * HIDDEN, [1e-44] * HIDDEN], np.float32)
    quantized = quantize(vectors, [spec("float32"), spec("float16", None, "half")])
    assert quantized.ok.all()
    np.testing.assert_allclose(quantized.columns["vector"], np.full((2, HIDDEN), 0.25), atol=1e-6)
    np.testing.assert_allclose(quantized.columns["half"], np.full((2, HIDDEN), 0.25), atol=1e-3)


def test_bits_are_packed_most_significant_first_and_zero_is_no_one() -> None:
    vector = np.array([[1, -1, -1, -1, -1, -1, -1, -2, 0, 0, 0, 0, 0, 0, 3, 0]], np.float32)
    quantized = quantize(vector, [spec("binary")])
    assert quantized.columns["vector"].tolist() == [[0b1000_0000, 0b0000_0010]]


def test_float32_vectors_have_unit_norm() -> None:
    values = quantize(random_vectors(50, 2048), [spec("float32", 1024)]).columns["vector"]
    assert values.shape == (50, 1024)
    np.testing.assert_allclose(np.linalg.norm(values.astype(np.float64), axis=1), 1, atol=1e-6)


def test_ranking_by_codes_times_scale_keeps_the_neighbours_of_float32() -> None:
    corpus, queries = random_vectors(500, 64), random_vectors(20, 64, seed=1)
    quantized = quantize(corpus, [spec("int8")])
    restored = quantized.columns["vector"].astype(np.int32) * quantized.columns["vector_scale"][:, None]
    exact = np.argsort(-(unit(queries) @ unit(corpus).T), axis=1)[:, :10]
    found = np.argsort(-(unit(queries) @ restored.T), axis=1)[:, :10]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.95


def test_arrow_columns_have_the_types_and_order_of_the_schema() -> None:
    specs = [spec("int8", 8, "a"), spec("binary", None, "b"), spec("float16", 3, "c"), spec("float32", None, "d")]
    vectors = random_vectors(5)
    quantized = quantize(vectors, specs)
    fields = vector_fields(specs, HIDDEN)
    arrays_ = quantized.arrays()
    assert [array.type for array in arrays_] == [field.type for field in fields]
    assert list(quantized.columns) == [field.name for field in fields]
    assert all(len(array) == 5 for array in arrays_)
    np.testing.assert_array_equal(np.array(arrays_[4].to_pylist(), np.float32), quantized.columns["d"])


def test_no_rows_give_empty_columns_of_the_same_types() -> None:
    specs = [spec("int8"), spec("binary", 8, "b")]
    quantized = quantize(np.empty((0, HIDDEN), np.float32), specs)
    assert quantized.ok.shape == (0,)
    assert [array.type for array in quantized.arrays()] == [field.type for field in vector_fields(specs, HIDDEN)]


def test_a_dim_beyond_the_model_is_a_config_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="dim 17, but the model's vectors have 16; give dim 16 or less"):
        check_specs([spec("int8", 17)], HIDDEN)
    with pytest.raises(ConfigError, match="no multiple of 8"):
        check_specs([spec("binary")], 20)
    check_specs([spec("int8", 16), spec("binary", 8, "b")], HIDDEN)


def test_each_formula_names_its_own_column() -> None:
    formulas = {dtype: formula(spec(dtype, 8, "v8")) for dtype in ("float32", "float16", "int8", "binary")}
    assert len(set(formulas.values())) == 4
    assert "v8_scale" in formulas["int8"]
    assert all("x[:8]" in text for text in formulas.values())
    assert "[:" not in formula(spec("int8"))
