"""Which item killed its worker is known after two or three deaths, and a machine that kills everything ends the run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LakevecError, RejectCode
from pipeline.stages.under_way import DEATHS_ALONE, MIN_CULPRITS, UnderWay


def attempt(ledger: UnderWay, keys: list[str], deadly: set[str], told: set[str], *, done: int) -> dict[str, str] | None:
    """One worker's try at `keys`: what came of each, None if the worker died. The device tells of those in `told`."""
    if not ledger.begin(keys):
        if deadly & set(keys):
            return None
        ledger.end(keys)
        return dict.fromkeys(keys, "vector")
    outcomes: dict[str, str] = {}
    for key in keys:
        verdict = ledger.begin_alone(key, done=done)
        if verdict is not None:
            outcomes[key] = str(verdict[0])
            continue
        if key in deadly:
            if key in told:
                ledger.blame(key, "device-side assert triggered")
            return None
        ledger.end([key])
        outcomes[key] = "vector"
    ledger.end(keys)
    return outcomes


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=30, unique=True),
    st.sets(st.integers(0, 30), max_size=5),
    st.sets(st.integers(0, 30)),
)
def test_every_culprit_is_named_after_two_or_three_deaths_and_nobody_else(
    items: list[int], deadly: set[int], told: set[int]
) -> None:
    keys = [str(item) for item in items]
    guilty, named = {str(item) for item in deadly} & set(keys), {str(item) for item in told}
    ledger, deaths = UnderWay(), 0
    while (outcomes := attempt(ledger, keys, guilty, named, done=100)) is None:
        deaths += 1
        assert deaths < 100
    assert list(outcomes) == keys
    for key in keys:
        expected = "vector" if key not in guilty else "DEVICE_ERROR" if key in named else "WORKER_CRASHED"
        assert outcomes[key] == expected
    # One death in company for all of them, then one that the device tells of or two that nobody does.
    assert deaths == bool(guilty) + sum(1 if key in named else DEATHS_ALONE for key in guilty)
    # What ended is forgotten: the same items may come again, as lost outputs make them.
    assert not ledger.begin(keys)


def test_one_death_alone_may_be_chance() -> None:
    ledger = UnderWay()
    assert not ledger.begin(["a", "b"])
    assert ledger.begin(["a", "b"])  # the worker was killed from outside
    assert ledger.begin_alone("a", done=0) is None
    assert ledger.begin(["a", "b"])  # and its successor too
    assert ledger.begin_alone("a", done=0) is None
    ledger.end(["a"])
    assert ledger.begin_alone("b", done=0) is None


def test_what_one_item_did_stays_with_it_when_its_window_is_cut_anew() -> None:
    ledger = UnderWay()
    while attempt(ledger, ["a", "b", "c"], {"b"}, {"b"}, done=0) is None:
        if ledger._causes:
            break
    assert ledger.begin(["b"])
    assert ledger.begin_alone("b", done=0) == (RejectCode.DEVICE_ERROR, "device-side assert triggered")


def test_a_machine_that_kills_every_item_ends_the_run_and_a_tenth_of_bad_items_does_not() -> None:
    ledger = UnderWay()
    for number in range(MIN_CULPRITS):
        ledger.blame(str(number), "ECC")
        assert ledger.begin_alone(str(number), done=0) is not None
    ledger.blame("next", "ECC")
    with pytest.raises(LakevecError, match=r"died of 17 items while 0 came through.*ECC.*health"):
        ledger.begin_alone("next", done=0)
    assert ledger.begin_alone("next", done=1000) is not None
