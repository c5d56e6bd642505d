"""Kernels: what a score is, in every dtype, and that company never changes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.retrieval.codes import floats, quantized
from pipeline.retrieval.kernels import pack, scores
from tests.fixtures.vector_index import unit_vectors

DTYPES = ("float32", "float16", "int8", "binary")


def spec_of(dtype: str, dim: int) -> VectorSpec:
    return VectorSpec.model_validate({"dim": dim, "dtype": dtype})


def plainly(documents: Any, queries: Any, dtype: str, dim: int) -> NDArray[np.float32]:
    """The scores, written as the formula says."""
    if dtype == "binary":
        differing = np.unpackbits(documents.values[:, None] ^ queries.values[None], axis=2).sum(axis=2, dtype=np.int64)
        return (dim - 2 * differing).astype(np.float32) / np.float32(dim)
    if dtype == "int8":
        dots = documents.values.astype(np.int64) @ queries.values.astype(np.int64).T
        return dots.astype(np.float32) * documents.scale[:, None] * queries.scale[None]
    return (documents.values.astype(np.float64) @ queries.values.astype(np.float64).T).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(1, 70), st.integers(1, 9), st.sampled_from([8, 64, 136, 1024]), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_scores_are_what_the_formula_says(dtype: str, n: int, m: int, dim: int, seed: int) -> None:
    spec = spec_of(dtype, dim)
    documents, _ = quantized(unit_vectors(n, dim, seed), spec)
    queries, _ = quantized(unit_vectors(m, dim, seed + 1), spec_of("float32", dim) if "float" in dtype else spec)
    got = scores(documents, pack(queries, spec))
    assert got.dtype == np.float32
    expected = plainly(documents, queries, dtype, dim)
    if dtype == "float32" or dtype == "float16":
        np.testing.assert_allclose(got, expected, atol=1e-7)
    else:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
@settings(max_examples=20, deadline=None)
def test_a_pair_scores_the_same_bits_in_any_company(dtype: str, data: st.DataObject) -> None:
    dim = data.draw(st.sampled_from([8, 72, 1000, 1024]))
    spec = spec_of(dtype, dim)
    documents, _ = quantized(unit_vectors(200, dim, 1), spec)
    queries, _ = quantized(unit_vectors(60, dim, 2), spec_of("float32", dim) if "float" in dtype else spec)
    whole = scores(documents, pack(queries, spec))
    rows = slice(*sorted(data.draw(st.lists(st.integers(0, 200), min_size=2, max_size=2, unique=True))))
    some = slice(*sorted(data.draw(st.lists(st.integers(0, 60), min_size=2, max_size=2, unique=True))))
    part = scores(documents.rows(rows), pack(queries.rows(some), spec))
    assert np.array_equal(part, whole[rows, some])


def test_integer_scores_keep_the_order_of_the_floats() -> None:
    vectors, asked = unit_vectors(3000, 256, 3), unit_vectors(20, 256, 4)
    spec = spec_of("int8", 256)
    found = scores(quantized(vectors, spec)[0], pack(quantized(asked, spec)[0], spec))
    kept = [
        len(set(np.argsort(-vectors @ query)[:10]) & set(np.argsort(-found[:, number])[:10]))
        for number, query in enumerate(asked)
    ]
    assert sum(kept) >= 0.95 * 10 * len(asked)


@pytest.mark.parametrize("dtype", DTYPES)
def test_floats_stand_for_unit_vectors_in_the_direction_of_the_codes(dtype: str) -> None:
    vectors = unit_vectors(50, 64)
    restored = floats(quantized(vectors, spec_of(dtype, 64))[0], spec_of(dtype, 64))
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1, atol=0.01)
    assert (np.einsum("ij,ij->i", restored, vectors) > (0.6 if dtype == "binary" else 0.99)).all()
