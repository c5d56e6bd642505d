"""Padded micro-batches of the stock path: every item once, within the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.batching import micro_batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_every_item_is_in_one_batch_and_only_lone_items_pass_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


def test_batches_come_longest_first_and_pad_neighbours_only() -> None:
    assert micro_batches([5, 100, 6, 99, 7], 200) == [[1, 3], [4, 2, 0]]
