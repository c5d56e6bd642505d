"""The job's own stages with an encoder that costs nothing, on Ray and in a plain process.

In: the stages' settings. Out: a class for Ray Data, and functions that do the same in a process pool. Only the
benchmark can reach these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from ray.exceptions import RayActorError

from pipeline.config import InputsConfig
from pipeline.models.encoder import Encoded
from pipeline.stages.encode import BusyClock, EncodeSettings, EncodeStage
from pipeline.stages.encode_guard import EncodeGuard
from pipeline.stages.prepare import PrepareStage
from pipeline.stages.preparing import PrepareSettings
from pipeline.types import Prepared

__all__ = ["HIDDEN_DIM", "NullEncodeStage", "null_encoder", "prepare_block", "start_preparer"]

HIDDEN_DIM = 2048  # the 2B model's


class _NullEncoder:
    """Vectors for nothing, of the size that the 2B model gives."""

    hidden_dim, device, dtype = HIDDEN_DIM, "cpu", "float32"

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        return Encoded(np.ones((len(items), HIDDEN_DIM), np.float32), 0)


class NullEncodeStage(EncodeStage):
    """Takes the place of `EncodeStage` in the chain; everything but the model is the real one."""

    def __init__(self, settings: EncodeSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        self._settings = settings
        self._meter = meter
        self._clock = BusyClock()
        self._guard = EncodeGuard(meter)
        self._encoder = _NullEncoder()


class _Silence:
    """A meter for processes without Ray: counts nothing, and is too dead to answer what stages ask."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Silence:
        return _Silence(name)

    def remote(self, *_: object) -> None:
        """Count nothing. Raises RayActorError where an answer is expected."""
        if self._name in ("begin", "begin_alone", "is_draining"):
            raise RayActorError


_preparer: list[PrepareStage] = []


def start_preparer(settings: PrepareSettings[InputsConfig]) -> None:
    """Load what a pool's process keeps from block to block."""
    _preparer[:] = [PrepareStage(settings, _Silence())]


def prepare_block(block: pa.Table) -> list[pa.Table]:
    """The windows of `block`, on their way to the process that has the model."""
    return list(_preparer[0](block))


def null_encoder(settings: EncodeSettings) -> NullEncodeStage:
    """The encoding stage for a process without Ray."""
    return NullEncodeStage(settings, _Silence())
