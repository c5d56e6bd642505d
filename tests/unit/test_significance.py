"""The tests of significance are SciPy's, and Holm's correction is what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipeline.evaluation.significance import compare_paired, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=8)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_p_values_and_interval_are_those_of_scipy(n: int) -> None:
    random = np.random.default_rng(n)
    baseline = random.random(n)
    run = baseline + random.normal(0.1, 0.2, n)
    found = compare_paired(run, baseline)
    expected = stats.ttest_rel(run, baseline)
    interval = expected.confidence_interval(0.95)
    assert (found.t_test_p, found.low, found.high) == (expected.pvalue, interval.low, interval.high)
    assert found.mean == pytest.approx(run.mean() - baseline.mean())
    assert found.better + found.worse == found.queries == n
    signs = (
        1 - 2 * np.array(np.unravel_index(np.arange(2**n), [2] * n)).T
        if n <= 7
        else random.choice([1, -1], (20_000, n))
    )
    drawn = np.abs((signs * (run - baseline)).mean(axis=1))
    share = (drawn >= abs(found.mean) * (1 - 1e-12)).mean()
    assert found.randomisation_p == pytest.approx(share, abs=1e-12 if n <= 7 else 0.02)


def test_the_same_values_give_the_same_p_value_in_every_run() -> None:
    run, baseline = np.random.default_rng(1).random((2, 30))
    assert compare_paired(run, baseline) == compare_paired(run, baseline)


@pytest.mark.parametrize(
    ("run", "t_test_p", "randomisation_p"),
    [([0.5, 0.5], 1.0, 1.0), ([0.9], 1.0, 1.0), ([], 1.0, 1.0), ([1.0] * 6, 1.0, 2 / 64)],
)
def test_without_spread_no_test_claims_more_than_it_can(
    run: list[float], t_test_p: float, randomisation_p: float
) -> None:
    found = compare_paired(np.array(run), np.full(len(run), 0.5))
    assert (found.t_test_p, found.randomisation_p, found.low) == (t_test_p, randomisation_p, None)


@given(P_VALUES)
def test_holm_rejects_what_the_step_down_rule_rejects(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(after >= before for after, before in zip(corrected, p_values, strict=True))
    level = 0.05
    rejected = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(corrected) if p <= level} == rejected


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
