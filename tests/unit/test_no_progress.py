"""A run is taken for one that hangs only after longer than any one item may take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.decode_pool import GRACE_S
from pipeline.stages.no_progress import LEAST_S, no_progress_timeout_s
from pipeline.stages.window_limits import WINDOW_AGE_S

SECONDS = st.floats(1, 1e5)


@given(decode_s=SECONDS, fetch_s=SECONDS, patience_s=SECONDS, concurrency=st.integers(1, 64), sides=st.integers(1, 2))
def test_a_slow_item_that_comes_through_in_the_end_is_no_hang(
    decode_s: float, fetch_s: float, patience_s: float, concurrency: int, sides: int
) -> None:
    fetch = FetchConfig(timeout_s=fetch_s, throttle_patience_s=patience_s, concurrency=concurrency)
    decode = DecodeConfig(timeout_s=decode_s)
    limit_s = no_progress_timeout_s(fetch, decode, sides)
    rounds = -(-64 // concurrency)  # a video of 64 frames, each as slow as a file may be
    slowest_s = patience_s + rounds * fetch_s + 2 * (decode_s + GRACE_S)
    assert limit_s >= max(LEAST_S, WINDOW_AGE_S + sides * slowest_s)


@pytest.mark.parametrize(
    "fetch", [FetchConfig(timeout_s=1, throttle_patience_s=0), FetchConfig(throttle_patience_s=0, concurrency=64)]
)
def test_quick_limits_leave_time_for_the_model(fetch: FetchConfig) -> None:
    assert no_progress_timeout_s(fetch, DecodeConfig(timeout_s=1)) == LEAST_S == 1800


def test_the_defaults_are_near_the_least() -> None:
    assert LEAST_S <= no_progress_timeout_s(FetchConfig(), DecodeConfig()) <= 1.1 * LEAST_S
