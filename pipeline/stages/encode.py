"""Encode: one window in, its outcome rows out. Runs in GPU actors (CPU where the cluster has no GPU)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.checkpoint import resolve_same
from pipeline.config import ModelConfig, VectorSpec
from pipeline.models.encoder import Encoded, Encoder
from pipeline.outcomes import window_outcomes
from pipeline.redaction import redacted_errors
from pipeline.stages.encode_guard import EncodeGuard
from pipeline.stages.worker_log import send_log_to
from pipeline.types import Prepared
from pipeline.window import unpack_window

__all__ = ["BusyClock", "EncodeSettings", "EncodeStage", "encode_distinct"]


@dataclass(frozen=True, slots=True)
class EncodeSettings:
    """Everything an encoder actor needs, small enough to be pickled.

    `device` is `cuda` for an actor that holds a GPU: one that cannot use it must fail, not crawl along on the CPU.
    """

    model: ModelConfig
    identity: str
    specs: tuple[VectorSpec, ...]
    carry: tuple[pa.Field, ...]
    dedupe: bool
    device: str


class EncodeStage:
    """The callable that Ray Data runs in encoder actors; the model is loaded once an actor."""

    @redacted_errors
    def __init__(self, settings: EncodeSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        # torch must load here and nowhere else: decoding processes never import it.
        from pipeline.models.qwen3_vl import load_encoder

        send_log_to(meter)
        self._settings = settings
        self._meter = meter
        self._clock = BusyClock()
        self._guard = EncodeGuard(meter)
        self._encoder: Encoder = load_encoder(
            resolve_same(settings.model, settings.identity), settings.model, device=settings.device
        )

    @redacted_errors
    def __call__(self, table: pa.Table) -> pa.Table:
        """Outcome rows (`schema.outcomes_schema` and `outcomes.COST_FIELDS`) of the window in `table`.

        Two threads may call: while the device computes one window, the other is read, packed and queued behind it.
        """
        self._clock.begin()
        try:
            window = unpack_window(table)
            encoded = encode_distinct(self._encoder, window.prepared, dedupe=self._settings.dedupe, guard=self._guard)
        finally:
            encode_s = self._clock.end()
        outcomes = window_outcomes(
            window, encoded, specs=self._settings.specs, carry=self._settings.carry, encode_s=encode_s
        )
        self._meter.encoded.remote(window.facts.num_rows, sum(item.n_tokens for item in window.prepared))
        return outcomes


class BusyClock:
    """Seconds that calls took, where they overlap counted once: they add up to the time that the actor was busy."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._running = 0
        self._counted_until = 0.0

    def begin(self) -> None:
        """A call begins."""
        with self._lock:
            if self._running == 0:
                self._counted_until = self._now()
            self._running += 1

    def end(self) -> float:
        """A call ends: the busy seconds that no call which ended earlier has counted."""
        with self._lock:
            now = self._now()
            spent, self._counted_until = now - self._counted_until, now
            self._running -= 1
        return spent


def encode_distinct(
    encoder: Encoder, items: tuple[Prepared, ...], *, dedupe: bool, guard: EncodeGuard | None = None
) -> Encoded:
    """`encoder.encode(items)`, computing items of equal content once if `dedupe`; behind `guard` if there is one."""
    first: dict[str, int] = {}
    units: list[Prepared] = []
    places: list[int] = []
    for item in items:
        place = first.setdefault(item.content_hash, len(units)) if dedupe else len(units)
        places.append(place)
        if place == len(units):
            units.append(item)
    if not units:
        return Encoded(np.empty((0, encoder.hidden_dim), np.float32))
    if guard is None:
        return encoder.encode(units).spread(places)
    return guard.run(
        [unit.id for unit in units],
        lambda: encoder.encode(units),
        lambda index: encoder.encode(units[index : index + 1]),
        encoder.hidden_dim,
    ).spread(places)
