"""The meter: one tiny actor a run that counts what each stage has done, tells preparers to drain, and outlives workers.

The live view, the drain, what workers have to say and which items killed them are all that hang on it: figures in
`summary.json` come from the written rows, which count work once even when a task runs twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RaySystemError

from pipeline.stages.under_way import PREPARE, UnderWay, Verdict
from pipeline.stages.worker_log import Message

__all__ = ["Meter", "Reading", "ask", "is_draining", "start_meter"]

MAX_MESSAGES = 100
"""More distinct messages than that are noise, and every reading carries them all."""


METER_TIMEOUT_S = 5.0
"""The meter answers in about a millisecond; a preparer that waits longer is better off working."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Items that each stage has handed on, tokens encoded, and the distinct messages of workers in order."""

    prepared: int = 0
    encoded: int = 0
    tokens: int = 0
    said: tuple[Message, ...] = ()


class Meter:
    """The actor's class; call it through `start_meter`."""

    def __init__(self) -> None:
        self._prepared = 0
        self._encoded = 0
        self._tokens = 0
        self._said: dict[Message, None] = {}
        self._draining = False
        self._under_way: dict[str, UnderWay] = {}

    def prepared(self, items: int) -> None:
        """Count `items` handed on by Prepare."""
        self._prepared += items

    def encoded(self, items: int, tokens: int) -> None:
        """Count `items` and `tokens` handed on by Encode."""
        self._encoded += items
        self._tokens += tokens

    def say(self, message: Message) -> None:
        """Keep `message` for the driver, if it is new and there is room."""
        if len(self._said) < MAX_MESSAGES:
            self._said[message] = None

    def begin(self, stage: str, keys: Sequence[str]) -> bool:
        """See `UnderWay.begin`, of the items that `stage` has under way."""
        return self._of(stage).begin(keys)

    def begin_alone(self, stage: str, key: str) -> Verdict | None:
        """See `UnderWay.begin_alone`."""
        return self._of(stage).begin_alone(key, done=self._prepared if stage == PREPARE else self._encoded)

    def end(self, stage: str, keys: Sequence[str]) -> None:
        """See `UnderWay.end`."""
        self._of(stage).end(keys)

    def blame(self, stage: str, key: str, cause: str) -> None:
        """See `UnderWay.blame`."""
        self._of(stage).blame(key, cause)

    def _of(self, stage: str) -> UnderWay:
        return self._under_way.setdefault(stage, UnderWay())

    def drain(self) -> None:
        """From now on preparers take no further block."""
        self._draining = True

    def is_draining(self) -> bool:
        """Whether preparers should let blocks pass undone."""
        return self._draining

    def read(self) -> Reading:
        """The counts so far."""
        return Reading(self._prepared, self._encoded, self._tokens, tuple(self._said))


def start_meter() -> Any:  # noqa: ANN401 - Ray's actor handles have no static type
    """A new meter, as an actor handle. It takes no CPU and restarts (at zero) if its node dies."""
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(Meter).remote()


def is_draining(meter: Any) -> bool:  # noqa: ANN401 - an actor handle
    """Whether the run of `meter` takes no further block; not if the meter does not answer."""
    try:
        return bool(ray.get(meter.is_draining.remote(), timeout=METER_TIMEOUT_S))
    except RayError:
        return False


def ask(method: Any, unknown: Any, *arguments: Any) -> Any:  # noqa: ANN401 - an actor's method
    """What the meter answers; `unknown` if it does not: then smaller passes find the culprit, with more deaths."""
    try:
        return ray.get(method.remote(*arguments), timeout=METER_TIMEOUT_S)
    except (RayActorError, RaySystemError, GetTimeoutError):
        return unknown
