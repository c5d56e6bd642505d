"""Prepare: rows of the work list in, windows out. Runs in CPU actors that never import torch, nor a decoder.

A stage never raises on data: an item that cannot be fetched, decoded or templated travels on as a `Reject`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa

from pipeline.config import InputsConfig
from pipeline.errors import RejectError
from pipeline.manifest.work import from_work_table
from pipeline.prepare import Preparer
from pipeline.redaction import redacted_errors
from pipeline.schema import CARRY_PREFIX
from pipeline.stages.load_guard import guarded
from pipeline.stages.meter import is_draining
from pipeline.stages.preparing import PrepareSettings, set_up
from pipeline.stages.window_limits import Outflow, WindowLimits
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import Prepared, Reject, WorkItem
from pipeline.window import pack_window, window_bytes

__all__ = ["PrepareStage", "windows"]


class PrepareStage:
    """The callable that Ray Data runs in preparation actors."""

    @redacted_errors
    def __init__(self, settings: PrepareSettings[InputsConfig], meter: Any) -> None:  # noqa: ANN401 - an actor handle
        self._workplace = set_up(settings, meter)
        self._preparer = Preparer(PromptTokenizer(self._workplace.tokenizer), settings.inputs)
        self._limits = settings.window
        self._meter = meter

    @redacted_errors
    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Windows of `block`'s items (`schema.work_schema`), nothing once the run is draining."""
        if is_draining(self._meter):
            return
        items = from_work_table(block)
        made = guarded(self._meter, [item.id for item in items], items, self._made)
        for window in windows(block, made, self._limits):
            self._meter.prepared.remote(len(window.column("items")[0]))
            yield window

    def _made(self, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
        loaded = self._workplace.fetcher.load_many(items)
        return self._workplace.preparation.many((item, got, self._preparer) for item, got in loaded)


def windows(
    work: pa.Table,
    made: Iterator[tuple[WorkItem, Prepared | RejectError]],
    limits: WindowLimits,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[pa.Table]:
    """Pack what was `made` (in the order of `work`) into windows that `limits` close.

    What is made goes out before the next item is waited for, if the last one took the window over its age.
    """
    kept = [name for name in work.column_names if name in ("id", "fingerprint", "attempts")]
    thin = work.select(kept + [name for name in work.column_names if name.startswith(CARRY_PREFIX)])
    outflow, start, started = Outflow(limits, now), 0, now()
    results: list[Prepared | Reject] = []
    n_bytes = n_tokens = 0

    def packed() -> pa.Table:
        facts = thin.slice(start, len(results))
        return pack_window(facts, results, now() - started, outflow.least_bytes)

    for item, got in made:
        result = Reject(item.id, got.code, got.detail) if isinstance(got, RejectError) else got
        results.append(result)
        if isinstance(result, Prepared):
            n_bytes += window_bytes(result)
            n_tokens += result.n_tokens
        if outflow.closes(n_bytes, n_tokens):
            yield from outflow.send(packed())
            start += len(results)
            results, n_bytes, n_tokens, started = [], 0, 0, now()
    if results:
        yield from outflow.send(packed())
