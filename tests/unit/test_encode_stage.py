"""What the encode stage adds to an encoder: duplicates once, failures where they belong, time counted once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.encoder import Encoded
from pipeline.stages.encode import BusyClock, encode_distinct
from pipeline.types import Prepared
from tests.fixtures.prepared import text_item


class Lengths:
    """An encoder whose vector is the item's length, and which items of 7 tokens do not fit."""

    hidden_dim, device, dtype = 2, "cpu", "float32"

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        self.seen += len(items)
        vectors = np.array([[item.n_tokens, 0] for item in items], np.float32)
        too_large = tuple((index, "full") for index, item in enumerate(items) if item.n_tokens == 7)
        return Encoded(vectors, forwards=2, filled=1.5, too_large=too_large)


def of_length(tokens: int) -> Prepared:
    return replace(text_item(tokens - 4), content_hash=f"length-{tokens}")


@given(st.lists(st.integers(4, 9), max_size=20), st.booleans())
def test_each_item_gets_its_own_vector_or_failure(lengths: list[int], dedupe: bool) -> None:
    encoder, items = Lengths(), tuple(of_length(tokens) for tokens in lengths)
    encoded = encode_distinct(encoder, items, dedupe=dedupe)
    assert encoded.vectors[:, 0].tolist() == lengths
    assert encoded.vectors.shape == (len(lengths), 2)
    assert encoded.too_large == tuple((index, "full") for index, tokens in enumerate(lengths) if tokens == 7)
    assert encoder.seen == (len(set(lengths)) if dedupe else len(lengths))
    assert encoded.forwards == (2 if lengths else 0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=12))
def test_overlapping_calls_count_their_time_once(calls: list[tuple[int, int]]) -> None:
    now = 0
    clock = BusyClock(lambda: float(now))
    # A call that begins when another ends begins first.
    events = sorted([(start, 0) for start, _ in calls] + [(start + length, 1) for start, length in calls])
    spent = 0.0
    for now, ends in events:  # noqa: B007 - the clock reads it
        spent += clock.end() if ends else clock.begin() or 0.0
    assert spent == len({moment for start, length in calls for moment in range(start, start + length)})
