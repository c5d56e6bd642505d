"""How long a run may show no progress before it is taken for one that hangs.

In: the config's limits on fetching and decoding. Out: seconds. Nothing is refused.
"""

from __future__ import annotations

import math

from pipeline.config import DecodeConfig, FetchConfig
from pipeline.decode_pool import GRACE_S
from pipeline.patience import Patience
from pipeline.stages.window_limits import WINDOW_AGE_S

__all__ = ["LEAST_S", "no_progress_timeout_s"]

LEAST_S = 1800.0
"""A first window may take as long as the model's download."""

_DECODE_TRIES = 2  # `decode_pool`: an item that is lost is tried once more, alone

_FILES = 64
"""Of one item: as many frames as a video has under the default `inputs.video.max_frames`."""


def no_progress_timeout_s(fetch: FetchConfig, decode: DecodeConfig, sides: int = 1) -> float:
    """Seconds after which a run without progress is ended, at least `LEAST_S`.

    Ray sees progress where a window leaves its worker, at the latest one item after the window has come of age. So this
    is that age and whatever an item may take that comes through or is rejected in the end. `sides`: items that a window
    waits for at once, 2 where it takes whole pairs.
    """
    file_s = Patience(fetch.timeout_s, fetch.retries).longest_s
    fetch_s = math.ceil(_FILES / fetch.concurrency) * file_s + fetch.throttle_patience_s
    decode_s = _DECODE_TRIES * (decode.timeout_s + GRACE_S)
    return max(LEAST_S, WINDOW_AGE_S + sides * (fetch_s + decode_s))
