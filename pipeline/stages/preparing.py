"""What a preparation actor has, of whatever job: its settings, and the tools it is set up with.

In: `PrepareSettings` and the run's meter. Out: a `Workplace`. Raises ConfigError where the checkpoint cannot be had.
Such an actor never imports torch, nor a decoder: media are decoded in children, which end with it, however it ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.checkpoint import resolve_same
from pipeline.config import DecodeConfig, InputsConfig, ModelConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.policy import FetchPolicy
from pipeline.preparation import Preparation
from pipeline.speech import guard_process
from pipeline.stages.window_limits import WindowLimits
from pipeline.stages.worker_log import send_log_to

__all__ = ["PrepareSettings", "Workplace", "set_up"]

Inputs = TypeVar("Inputs", bound=InputsConfig)


@dataclass(frozen=True, slots=True)
class PrepareSettings(Generic[Inputs]):
    """Everything a preparer needs, small enough to be pickled into every actor. `identity`: the checkpoint's."""

    model: ModelConfig
    identity: str
    inputs: Inputs
    policy: FetchPolicy
    decode: DecodeConfig
    window: WindowLimits


@dataclass(frozen=True, slots=True)
class Workplace:
    """`tokenizer`: the folder of the checkpoint that has one."""

    tokenizer: Path
    fetcher: Fetcher
    preparation: Preparation


def set_up(settings: PrepareSettings[Any], meter: Any) -> Workplace:  # noqa: ANN401 - an actor handle
    """Make this process a preparer."""
    guard_process()
    keep_freed_memory()
    send_log_to(meter)
    checkpoint = resolve_same(settings.model, settings.identity, weights=False)
    pool = DecodePool(partial(equip_drafter, settings.inputs, settings.decode), settings.decode)
    return Workplace(checkpoint.folder, Fetcher(settings.policy), Preparation(pool))
