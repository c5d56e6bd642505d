"""One window through the model: its micro-batches launched one after another, its vectors waited for once.

In: a window's items and their blocks. Out: `Encoded`. While the device computes a micro-batch, a helper thread collates
the next one and starts its copies (on a CPU, where it would take the cores that compute, there is none). A micro-batch
that does not fit is packed anew under half its size, down to one item. A single item that does not fit is tried once
more with nothing else under way, and is `too_large` if it does not fit then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass

import torch

from pipeline.models.batch import PackedBatch, Sender
from pipeline.models.blocks import Block
from pipeline.models.collate import VisionShape, collate
from pipeline.models.encoder import Encoded
from pipeline.models.loading import first_line
from pipeline.models.packed import FeatureStore, PackedModel
from pipeline.models.results import Results
from pipeline.models.schedule import Schedule
from pipeline.packing import Budget, cost_of
from pipeline.types import Prepared

__all__ = ["WindowRun"]


@dataclass(frozen=True, slots=True)
class _Ahead:
    indices: tuple[int, ...]
    batch: Future[PackedBatch]


class WindowRun:
    """The run of one window. `launch` it under the encoder's lock, then `finish` it."""

    def __init__(
        self,
        items: Sequence[Prepared],
        blocks: Sequence[tuple[Block, ...]],
        model: PackedModel,
        sender: Sender,
        shape: VisionShape,
        helper: Executor | None,
    ) -> None:
        self._items = items
        self._blocks = blocks
        self._keys = [frozenset(block.key for block in each) for each in blocks]
        self._model = model
        self._sender = sender
        self._shape = shape
        self._helper = helper
        self._results = Results(len(items), model.width, sender.device)
        self._store: FeatureStore = {}
        self._too_large: list[tuple[int, str]] = []
        self._fills: list[float] = []
        self._launched: torch.cuda.Event | None = None

    def launch(self, budget: Budget, *, single: bool) -> Budget:
        """Launch every micro-batch; returns `budget`, or the smaller one that running out of memory taught."""
        schedule = Schedule([cost_of(item) for item in self._items], self._keys, budget, single=single)
        ahead: _Ahead | None = None
        while schedule:
            indices = schedule.take()
            ahead, problem = self._attempt(indices, ahead, schedule)
            if problem is not None:
                self._quieten(ahead)
                ahead = None
                if len(indices) == 1:
                    problem = self._alone(indices, schedule)
            if problem is None:
                self._fills.append(min(1.0, budget.fill(schedule.costs_of(indices))))
            elif len(indices) == 1:
                self._too_large.append((indices[0], problem))
            else:
                budget = budget.after_failure(schedule.costs_of(indices))
                schedule.again(indices, budget)
        self._store.clear()
        self._launched = self._results.mark()
        return budget

    def finish(self) -> Encoded:
        """Wait for what was launched and hand it over."""
        return Encoded(
            vectors=self._results.vectors(self._launched),
            forwards=len(self._fills),
            filled=sum(self._fills),
            too_large=tuple(sorted(self._too_large)),
        )

    def _attempt(
        self, indices: tuple[int, ...], ahead: _Ahead | None, schedule: Schedule
    ) -> tuple[_Ahead | None, str | None]:
        """Launch the micro-batch `indices`; returns the next one on its way, and why this one did not fit."""
        try:
            batch = self._batch(indices, ahead)
            ahead = self._look_ahead(schedule, indices)
            self._compute(batch, indices, schedule)
        except torch.OutOfMemoryError as error:
            return ahead, first_line(error)
        return ahead, None

    def _alone(self, indices: tuple[int, ...], schedule: Schedule) -> str | None:
        """Launch `indices` with no micro-batch on its way; why it did not fit even so."""
        try:
            self._compute(self._collated(indices, frozenset(self._store)), indices, schedule)
        except torch.OutOfMemoryError as error:
            problem = first_line(error)
        else:
            return None
        self._release()
        return problem

    def _compute(self, batch: PackedBatch, indices: tuple[int, ...], schedule: Schedule) -> None:
        keep = schedule.wanted_later(indices)
        self._results.take(indices, self._model(batch, self._store, keep))
        for key in self._store.keys() & (self._shown(indices) - keep):
            del self._store[key]

    def _batch(self, indices: tuple[int, ...], ahead: _Ahead | None) -> PackedBatch:
        if ahead is not None and ahead.indices == indices:
            batch = ahead.batch.result()
            if self._store.keys() >= set(batch.borrowed):
                return batch
        return self._collated(indices, frozenset(self._store))

    def _look_ahead(self, schedule: Schedule, running: tuple[int, ...]) -> _Ahead | None:
        upcoming = schedule.upcoming
        if self._helper is None or upcoming is None:
            return None
        kept = frozenset(self._store) | schedule.wanted_later(running)
        return _Ahead(upcoming, self._helper.submit(self._collated, upcoming, kept))

    def _collated(self, indices: tuple[int, ...], kept: Collection[int]) -> PackedBatch:
        items, blocks = [self._items[index] for index in indices], [self._blocks[index] for index in indices]
        return self._sender.send(collate(items, blocks, kept, self._shape))

    def _shown(self, indices: tuple[int, ...]) -> set[int]:
        return {key for index in indices for key in self._keys[index]}

    def _quieten(self, ahead: _Ahead | None) -> None:
        """Give up the micro-batch on its way: its copies may be what took the memory, or what there was none for."""
        if ahead is not None:
            wait([ahead.batch])
        self._release()

    def _release(self) -> None:
        if self._sender.device.type == "cuda":
            torch.cuda.empty_cache()
