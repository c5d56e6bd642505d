"""How long a run may show no progress before it is taken for one that hangs.

In: the config's limits on fetching and decoding, and what encoders compute on. Out: seconds, and the error that ends a
run which showed nothing for so long. Nothing is refused.
"""

from __future__ import annotations

import math
import re

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.decode_pool import GRACE_S
from pipeline.errors import LakevecError, scrub
from pipeline.patience import Patience
from pipeline.stages.window_limits import WINDOW_AGE_S

__all__ = ["CPU_LEAST_S", "LEAST_S", "no_progress", "no_progress_timeout_s"]

LEAST_S = 1800.0
"""A first window may take as long as the model's download; on a GPU none takes minutes."""

CPU_LEAST_S = 86_400.0
"""Where encoders compute on CPUs. A window of 131,072 tokens (`run.window_tokens`) takes 2.1e15 operations with 8e9
parameters, twelve hours at 5e10 a second, as few cores make them; and an encoder has two windows in work at once. No
fixed share of `run.window_tokens`: smaller windows are then always the way out."""

_DECODE_TRIES = 2  # `decode_pool`: an item that is lost is tried once more, alone

_FILES = 64
"""Of one item: as many frames as a video has under the default `inputs.video.max_frames`."""

_AT_WORK = re.compile(r"^ +- (.+): ([1-9]\d*) active task", re.M)
"""A stage and its tasks, as Ray's ExecutionTimeoutError lists them."""


def no_progress_timeout_s(fetch: FetchConfig, decode: DecodeConfig, sides: int = 1, *, on_gpu: bool) -> float:
    """Seconds after which a run without progress is ended, at least `LEAST_S`, or `CPU_LEAST_S` unless `on_gpu`.

    Ray sees progress where a window leaves its worker, at the latest one item after the window has come of age. So this
    is that age and whatever an item may take that comes through or is rejected in the end; the floors are for encoders,
    whose windows nothing bounds by time. `sides`: items that a window waits for at once, 2 where it takes whole pairs.
    """
    file_s = Patience(fetch.timeout_s, fetch.retries).longest_s
    fetch_s = math.ceil(_FILES / fetch.concurrency) * file_s + fetch.throttle_patience_s
    decode_s = _DECODE_TRIES * (decode.timeout_s + GRACE_S)
    return max(LEAST_S if on_gpu else CPU_LEAST_S, WINDOW_AGE_S + sides * (fetch_s + decode_s))


def no_progress(limit_s: float, told: str) -> LakevecError:
    """What ends a run that showed no progress for `limit_s` seconds; `told` is what Ray says of it, stage by stage."""
    at_work = ", ".join(f"{name} ({tasks})" for name, tasks in _AT_WORK.findall(told))
    return LakevecError(
        f"no stage handed anything on for {limit_s:.0f} s, longer than any item may take under fetch.timeout_s, "
        "fetch.throttle_patience_s and decode.timeout_s; "
        + (f"at work, with so many tasks: {scrub(at_work)}; " if at_work else "no task was at work; ")
        + "if an encoder is, and it is only slow, lower run.window_tokens and run.window_mb; if nothing is, look at "
        "the cluster's free CPUs and GPUs; what is committed stays, run again to continue"
    )
