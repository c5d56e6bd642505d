"""A run is taken for one that hangs only after longer than any one item may take."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.config import DecodeConfig, FetchConfig, RunConfig
from pipeline.decode_pool import GRACE_S
from pipeline.errors import LakevecError
from pipeline.stages import passes
from pipeline.stages.no_progress import CPU_LEAST_S, LEAST_S, no_progress, no_progress_timeout_s
from pipeline.stages.window_limits import WINDOW_AGE_S
from pipeline.stop import StopRequest

SECONDS = st.floats(1, 1e5)


@given(decode_s=SECONDS, fetch_s=SECONDS, patience_s=SECONDS, concurrency=st.integers(1, 64), sides=st.integers(1, 2))
def test_a_slow_item_that_comes_through_in_the_end_is_no_hang(
    decode_s: float, fetch_s: float, patience_s: float, concurrency: int, sides: int
) -> None:
    fetch = FetchConfig(timeout_s=fetch_s, throttle_patience_s=patience_s, concurrency=concurrency)
    decode = DecodeConfig(timeout_s=decode_s)
    limit_s = no_progress_timeout_s(fetch, decode, sides, on_gpu=True)
    rounds = -(-64 // concurrency)  # a video of 64 frames, each as slow as a file may be
    slowest_s = patience_s + rounds * fetch_s + 2 * (decode_s + GRACE_S)
    assert limit_s >= max(LEAST_S, WINDOW_AGE_S + sides * slowest_s)


@pytest.mark.parametrize(
    "fetch", [FetchConfig(timeout_s=1, throttle_patience_s=0), FetchConfig(throttle_patience_s=0, concurrency=64)]
)
def test_quick_limits_leave_time_for_the_model(fetch: FetchConfig) -> None:
    assert no_progress_timeout_s(fetch, DecodeConfig(timeout_s=1), on_gpu=True) == LEAST_S == 1800


def test_the_defaults_are_near_the_least() -> None:
    assert LEAST_S <= no_progress_timeout_s(FetchConfig(), DecodeConfig(), on_gpu=True) <= 1.1 * LEAST_S


def test_an_encoder_on_the_cpu_has_time_for_a_window_of_the_largest_model() -> None:
    limit_s = no_progress_timeout_s(FetchConfig(), DecodeConfig(), on_gpu=False)
    two_windows = 2 * 2 * 8e9 * RunConfig().window_tokens
    assert limit_s == CPU_LEAST_S >= two_windows / 5e10
    patient = FetchConfig(throttle_patience_s=1e6)
    assert no_progress_timeout_s(patient, DecodeConfig(), on_gpu=False) > 1e6


def test_the_error_names_limit_stage_and_way_out() -> None:
    told = (
        "no progress\n  - ReadParquet: 0 active task(s), 3 finished\n  - MapBatches(Enc): 2 active task(s), 7 finished"
    )
    said = str(no_progress(1860, told))
    assert "1860 s" in said
    assert "MapBatches(Enc) (2)" in said
    assert "ReadParquet" not in said
    assert "lower run.window_tokens" in said
    assert "no task was at work" in str(no_progress(1860, "nothing"))


def test_what_ray_raises_ends_a_pass_with_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hung:
        def poll(self, timeout_s: float) -> None:
            raise ExecutionTimeoutError("  - MapBatches(Enc): 2 active task(s)")

    monkeypatch.setattr(passes, "build_chain", lambda *_: None)
    monkeypatch.setattr(passes, "ReceiptStream", lambda _: Hung())
    monkeypatch.setattr(passes.Passes, "_read_meter", lambda _self, last: last)
    work = SimpleNamespace(to_do=1, paths=["w"], chain=SimpleNamespace(no_progress_s=1860.0))
    nothing: Any = SimpleNamespace(store=None, flush=lambda: None)
    run = passes.Passes(cast(Any, work), nothing, nothing, StopRequest(), 1, lambda _: None, nothing)
    with pytest.raises(LakevecError, match=r"1860 s.*MapBatches\(Enc\)"):
        run.run()
