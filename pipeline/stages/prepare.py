"""Prepare: rows of the work list in, windows out. Runs in CPU actors that never import torch, nor a decoder.

A stage never raises on data: an item that cannot be fetched, decoded or templated travels on as a `Reject`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.checkpoint import resolve_same
from pipeline.config import DecodeConfig, InputsConfig, ModelConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectError
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.manifest.work import from_work_table
from pipeline.policy import FetchPolicy
from pipeline.preparation import Preparation
from pipeline.prepare import Preparer
from pipeline.redaction import redacted_errors
from pipeline.schema import CARRY_PREFIX
from pipeline.speech import guard_process
from pipeline.stages.load_guard import guarded
from pipeline.stages.meter import is_draining
from pipeline.stages.worker_log import send_log_to
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import Prepared, Reject, WorkItem
from pipeline.window import pack_window, window_bytes

__all__ = ["PrepareSettings", "PrepareStage", "windows"]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything a preparer needs, small enough to be pickled into every actor."""

    model: ModelConfig
    identity: str
    inputs: InputsConfig
    policy: FetchPolicy
    decode: DecodeConfig
    window_bytes: int
    window_tokens: int


class PrepareStage:
    """The callable that Ray Data runs in preparation actors."""

    @redacted_errors
    def __init__(self, settings: PrepareSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        guard_process()
        keep_freed_memory()
        send_log_to(meter)
        checkpoint = resolve_same(settings.model, settings.identity, weights=False)
        self._settings = settings
        self._meter = meter
        self._fetcher = Fetcher(settings.policy)
        self._preparer = Preparer(PromptTokenizer(checkpoint.folder), settings.inputs)
        # The children end with this process, however it ends.
        self._pool = DecodePool(partial(equip_drafter, settings.inputs, settings.decode), settings.decode)

    @redacted_errors
    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Windows of `block`'s items (`schema.work_schema`), nothing once the run is draining."""
        if is_draining(self._meter):
            return
        settings = self._settings
        items = from_work_table(block)
        made = guarded(self._meter, [item.id for item in items], items, self._made)
        for window in windows(block, made, settings.window_bytes, settings.window_tokens):
            self._meter.prepared.remote(len(window.column("items")[0]))
            yield window

    def _made(self, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
        loaded = self._fetcher.load_many(items)
        return Preparation(self._pool).many((item, got, self._preparer) for item, got in loaded)


def windows(
    work: pa.Table, made: Iterator[tuple[WorkItem, Prepared | RejectError]], max_bytes: int, max_tokens: int
) -> Iterator[pa.Table]:
    """Pack what was `made` (in the order of `work`) into windows, each closed at `max_bytes` or `max_tokens`.

    A window holds at least one item, so a single one may be larger than both.
    """
    kept = [name for name in work.column_names if name in ("id", "fingerprint", "attempts")]
    thin = work.select(kept + [name for name in work.column_names if name.startswith(CARRY_PREFIX)])
    results: list[Prepared | Reject] = []
    n_bytes = n_tokens = start = 0
    started = time.monotonic()
    for item, got in made:
        result = Reject(item.id, got.code, got.detail) if isinstance(got, RejectError) else got
        results.append(result)
        if isinstance(result, Prepared):
            n_bytes += window_bytes(result)
            n_tokens += result.n_tokens
        if n_bytes >= max_bytes or n_tokens >= max_tokens:
            yield pack_window(thin.slice(start, len(results)), results, time.monotonic() - started)
            start += len(results)
            results, n_bytes, n_tokens, started = [], 0, 0, time.monotonic()
    if results:
        yield pack_window(thin.slice(start, len(results)), results, time.monotonic() - started)
