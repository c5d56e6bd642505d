"""Top k under every stored dtype: what brute force finds, whatever the batches and however many tie."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ManifestError
from pipeline.evaluation.stored import FloatVectors, StoredVectors, stored
from pipeline.evaluation.top_k import scores, top_k

DTYPES = ("float32", "float16", "int8", "binary")


def vectors(n: int, dim: int, seed: int, kinds: int | None = None) -> FloatVectors:
    """`n` vectors of `kinds` different ones: few kinds make many ties."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((kinds or n, dim)).astype(np.float32)[random.integers(0, kinds or n, n)]
    return FloatVectors(random.permutation(n).astype(np.uint64) + np.uint64(1), values)


def spec(dtype: str, dim: int) -> VectorSpec:
    return VectorSpec.model_validate({"dim": dim, "dtype": dtype})


def one_by_one(query: StoredVectors, documents: StoredVectors) -> list[float]:
    """Scores of query 0, each by itself in Python's integers and float64."""
    found = []
    for place, code in enumerate(documents.codes):
        own = query.codes[0]
        if query.dtype == "binary":
            found.append(-float(sum(int(a ^ b).bit_count() for a, b in zip(own, code, strict=True))))
        elif query.dtype == "int8":
            assert documents.scales is not None
            dot = sum(int(a) * int(b) for a, b in zip(own, code, strict=True))
            found.append(dot * float(documents.scales[place]))
        else:
            found.append(float(np.dot(own.astype(np.float64), code.astype(np.float64))))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_are_those_of_each_pair_alone(dtype: str) -> None:
    query, documents = (stored(vectors(n, 1160, n), spec(dtype, 1160)) for n in (1, 20))
    expected = one_by_one(query, documents)
    np.testing.assert_allclose(scores(query, documents)[0], expected, rtol=0, atol=1e-8)
    if dtype in ("int8", "binary"):
        assert scores(query, documents)[0].tolist() == expected


def test_the_greatest_codes_are_summed_without_rounding() -> None:
    codes = np.full((1, 8191), 127, np.int8)
    one = StoredVectors("int8", np.ones(1, np.uint64), codes, np.ones(1, np.float32))
    assert scores(one, one).tolist() == [[127 * 127 * 8191]]


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(DTYPES),
    n=st.integers(1, 120),
    kinds=st.sampled_from([1, 3, 1000]),
    k=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 120), max_size=4),
)
def test_any_split_gives_what_sorting_everything_gives(dtype: str, n: int, kinds: int, k: int, cuts: list[int]) -> None:
    documents, queries = vectors(n, 16, 1, kinds), stored(vectors(5, 16, 2), spec(dtype, 16))
    edges = sorted({0, n, *(cut % (n + 1) for cut in cuts)})
    parts = [slice(start, end) for start, end in itertools.pairwise(edges)]
    pieces = [FloatVectors(documents.keys[part], documents.values[part]) for part in parts]
    found = top_k(queries, (stored(piece, spec(dtype, 16)) for piece in pieces), k)
    whole = stored(documents, spec(dtype, 16))
    everything: NDArray[np.float64] = scores(queries, whole)
    for row, all_scores in enumerate(everything):
        order = sorted(range(n), key=lambda i: (-all_scores[i], -int(whole.keys[i])))[:k]
        assert found.keys[row].tolist() == whole.keys[order].tolist()
        assert found.scores[row].tolist() == all_scores[order].tolist()


def test_a_list_goes_on_where_another_ended() -> None:
    documents = vectors(300, 16, 3, 7)
    halves = [FloatVectors(documents.keys[part], documents.values[part]) for part in (slice(200), slice(200, None))]
    queries, batches = stored(vectors(4, 16, 4), spec("int8", 16)), [stored(half, spec("int8", 16)) for half in halves]
    first = top_k(queries, batches[:1], 9)
    on, at_once = top_k(queries, batches[1:], 9, first), top_k(queries, batches, 9)
    np.testing.assert_array_equal(on.keys, at_once.keys)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_without_its_own_key_each_query_has_the_others(n: int) -> None:
    documents = stored(vectors(n, 16, 5), spec("float32", 16))
    found = top_k(documents, [documents], 6).without(documents.keys, 5)
    assert found.keys.shape == (n, min(5, n - 1))
    assert not (found.keys == documents.keys[:, None]).any()
    everything = scores(documents, documents)
    for row in range(n):
        best = sorted((score for place, score in enumerate(everything[row]) if place != row), reverse=True)[:5]
        assert found.scores[row].tolist() == best


def test_a_vector_without_direction_after_the_cut_is_refused() -> None:
    flat = FloatVectors(np.ones(1, np.uint64), np.array([[0, 0, 1, 1]], np.float32))
    with pytest.raises(ManifestError, match="1 vectors have NaN, infinity or zero norm in their first 2 values"):
        stored(flat, spec("float32", 2))
