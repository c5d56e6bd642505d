"""Packing: whole items, every one once, within both bounds, about evenly; and what running out of memory teaches."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.schedule import Schedule
from pipeline.packing import Budget, Cost, cost_of, pack
from tests.fixtures.prepared import clip_item, image_item, text_item

COSTS = st.lists(
    st.builds(lambda text, visual: Cost(text + visual, 4 * visual), st.integers(1, 99), st.integers(0, 99))
)
BUDGETS = st.builds(Budget, st.integers(1, 900), st.integers(1, 2_000))


@given(COSTS, BUDGETS)
def test_every_item_is_in_one_batch_and_only_lone_items_pass_a_bound(costs: list[Cost], budget: Budget) -> None:
    batches = pack(costs, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(costs)))
    for batch in batches:
        assert len(batch) == 1 or budget.fill([costs[index] for index in batch]) <= 1
        lengths = [costs[index].tokens for index in batch]
        assert lengths == sorted(lengths, reverse=True)


@given(COSTS, BUDGETS)
def test_packing_is_deterministic_and_single_means_alone(costs: list[Cost], budget: Budget) -> None:
    assert pack(costs, budget) == pack(list(costs), budget)
    assert sorted(pack(costs, budget, single=True)) == [[index] for index in range(len(costs))]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 100), min_size=200, max_size=400))
def test_batches_are_few_and_evenly_full(lengths: list[int]) -> None:
    budget = Budget.of_tokens(2_000)
    loads = [sum(lengths[index] for index in batch) for batch in pack([Cost(n, 0) for n in lengths], budget)]
    fewest = -(-sum(lengths) // budget.tokens)
    assert len(loads) <= fewest + 1
    assert max(loads) - min(loads) <= 200


def test_a_budget_that_holds_nothing_gives_batches_of_one() -> None:
    assert sorted(pack([Cost(5, 8)] * 4, Budget(1, 1))) == [[0], [1], [2], [3]]
    assert pack([], Budget(1, 1)) == []


def test_costs_count_tokens_and_patches() -> None:
    assert cost_of(text_item(20)) == Cost(24, 0)
    assert cost_of(image_item(64, 96)).patches == 24
    assert cost_of(clip_item(4, 64, 64)).patches == 32


@given(COSTS.filter(lambda costs: len(costs) > 1), BUDGETS)
def test_a_failure_teaches_half_of_what_did_not_fit(costs: list[Cost], budget: Budget) -> None:
    learned = budget.after_failure(costs)
    assert 1 <= learned.tokens <= budget.tokens
    assert 1 <= learned.patches <= budget.patches
    assert learned.fill(costs) > 1 or sum(cost.tokens for cost in costs) <= 2


def test_texts_that_did_not_fit_say_nothing_about_patches() -> None:
    assert Budget(100, 400).after_failure([Cost(60, 0), Cost(20, 0)]) == Budget(40, 400)


@given(COSTS, st.lists(st.booleans(), max_size=12))
def test_a_schedule_gives_every_item_however_often_batches_fail(costs: list[Cost], fails: list[bool]) -> None:
    keys = [frozenset({index % 3}) for index in range(len(costs))]
    budget = Budget.of_tokens(400)
    schedule = Schedule(costs, keys, budget)
    done: list[int] = []
    while schedule:
        upcoming = schedule.upcoming
        indices = schedule.take()
        assert indices == upcoming
        if len(indices) > 1 and fails and fails.pop():
            budget = budget.after_failure(schedule.costs_of(indices))
            schedule.again(indices, budget)
        else:
            done += indices
    assert sorted(done) == list(range(len(costs)))


def test_a_schedule_knows_which_blocks_are_shown_again() -> None:
    costs, keys = [Cost(10, 8)] * 3, [frozenset({7, 1}), frozenset({7}), frozenset({2})]
    schedule = Schedule(costs, keys, Budget.of_tokens(10))
    wanted = []
    while schedule:
        indices = schedule.take()
        wanted.append((indices, schedule.wanted_later(indices)))
    assert wanted == [((0,), {7}), ((1,), set()), ((2,), set())]
    assert schedule.upcoming is None
