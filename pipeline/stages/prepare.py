"""Prepare: rows of the work list in, windows out. Runs in CPU actors that never import torch.

A stage never raises on data: an item that cannot be fetched, decoded or templated travels on as a `Reject`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.checkpoint import resolve_same
from pipeline.config import InputsConfig, ModelConfig
from pipeline.errors import RejectCode, RejectError, scrub
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.manifest.work import from_work_table
from pipeline.policy import FetchPolicy
from pipeline.prepare import Preparer
from pipeline.schema import CARRY_PREFIX
from pipeline.stages.load_guard import guarded_loads
from pipeline.stages.meter import is_draining
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, Prepared, Reject, WorkItem
from pipeline.window import pack_window, window_bytes

__all__ = ["PrepareSettings", "PrepareStage", "windows"]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """Everything a preparer needs, small enough to be pickled into every actor."""

    model: ModelConfig
    identity: str
    inputs: InputsConfig
    policy: FetchPolicy
    window_bytes: int
    window_tokens: int


class PrepareStage:
    """The callable that Ray Data runs in preparation actors."""

    def __init__(self, settings: PrepareSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        keep_freed_memory()
        checkpoint = resolve_same(settings.model, settings.identity, weights=False)
        self._settings = settings
        self._meter = meter
        self._fetcher = Fetcher(settings.policy)
        self._preparer = Preparer(PromptTokenizer(checkpoint.folder), settings.inputs)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Windows of `block`'s items (`schema.work_schema`), nothing once the run is draining."""
        if is_draining(self._meter):
            return
        settings = self._settings
        items = from_work_table(block)
        loaded = guarded_loads(self._meter, [item.id for item in items], items, self._fetcher.load_many)
        for window in windows(block, loaded, self._preparer.prepare, settings.window_bytes, settings.window_tokens):
            self._meter.prepared.remote(len(window.column("items")[0]))
            yield window


def windows(
    work: pa.Table,
    loaded: Iterator[tuple[WorkItem, LoadedItem | RejectError]],
    prepare: Callable[[LoadedItem], Prepared],
    max_bytes: int,
    max_tokens: int,
) -> Iterator[pa.Table]:
    """Prepare `loaded` (in the order of `work`) into windows, each closed at `max_bytes` or `max_tokens`.

    A window holds at least one item, so a single one may be larger than both.
    """
    kept = [name for name in work.column_names if name in ("id", "fingerprint", "attempts")]
    thin = work.select(kept + [name for name in work.column_names if name.startswith(CARRY_PREFIX)])
    results: list[Prepared | Reject] = []
    n_bytes = n_tokens = start = 0
    started = time.monotonic()
    for item, got in loaded:
        result = _outcome(item, got, prepare)
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


def _outcome(
    item: WorkItem, got: LoadedItem | RejectError, prepare: Callable[[LoadedItem], Prepared]
) -> Prepared | Reject:
    if isinstance(got, RejectError):
        return Reject(item.id, got.code, got.detail)
    try:
        return prepare(got)
    except RejectError as error:
        return Reject(item.id, error.code, error.detail)
    except Exception as error:  # noqa: BLE001 - one bad item never touches another, not even through our own defects
        return Reject(item.id, RejectCode.PREPARE_FAILED, scrub(f"{type(error).__name__}: {error}"))
