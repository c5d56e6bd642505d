"""One window through the model: its micro-batches launched one after another, its vectors waited for once.

In: a window's items, their prefixes, the blocks of both. Out: `Encoded`. While the device computes a micro-batch, a
helper thread collates the next one and starts its copies (on a CPU, where it would take the cores that compute, there
is none). A micro-batch that does not fit is packed anew under half its size, down to one item. A single item that does
not fit is tried once more with nothing else under way, and is `too_large` if it does not fit then; so is all that
continues a prefix that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.models.batch import PackedBatch, Sender
from pipeline.models.blocks import Block
from pipeline.models.collate import VisionShape, collate
from pipeline.models.encoder import Encoded
from pipeline.models.faults import memory_problem
from pipeline.models.packed import FeatureStore, PackedModel, PrefixStore
from pipeline.models.results import Results
from pipeline.models.schedule import Schedule
from pipeline.packing import Budget, cost_of
from pipeline.prefixes import WHOLE, Prefixed

__all__ = ["WindowRun"]


@dataclass(frozen=True, slots=True)
class _Ahead:
    indices: tuple[int, ...]
    batch: Future[PackedBatch]


class WindowRun:
    """The run of one window: planned when it is made, `launch`ed under the engine's lock, then `finish`ed.

    `head`: what is made of pooled states, on the device.
    """

    def __init__(
        self,
        window: Prefixed,
        blocks: Sequence[tuple[Block, ...]],
        budget: Budget,
        *,
        model: PackedModel,
        sender: Sender,
        shape: VisionShape,
        helper: Executor | None,
        results: Results,
        head: Callable[[Tensor], Tensor],
        single: bool,
    ) -> None:
        """`blocks`: those of the items, then those of the prefixes. `single`: every item alone."""
        self._units = (*window.items, *window.prefixes)
        self._blocks = blocks
        self._keys = [frozenset(block.key for block in each) for each in blocks]
        costs = [cost_of(unit) for unit in self._units]
        self._schedule = Schedule(costs, self._keys, budget, of=window.of, single=single)
        self._model = model
        self._sender = sender
        self._shape = shape
        self._helper = helper
        self._results = results
        self._head = head
        self._store: FeatureStore = {}
        self._prefixes: PrefixStore = {}
        self._too_large: list[tuple[int, str]] = []
        self._fills: list[float] = []
        self._launched: torch.cuda.Event | None = None
        self._ahead: _Ahead | None = None

    def launch(self, budget: Budget) -> Budget:
        """Launch every micro-batch; returns `budget`, or the smaller one that running out of memory taught."""
        schedule = self._schedule
        if budget != schedule.budget:
            schedule.again((), budget)
        while schedule:
            indices = schedule.take()
            problem = self._attempt(indices)
            if problem is not None:
                self._quieten()
                if len(indices) == 1:
                    problem = self._alone(indices)
            if problem is None:
                self._passed(indices)
            elif len(indices) == 1:
                self._lost(indices[0], problem)
            else:
                schedule.again(indices, schedule.budget.after_failure(schedule.costs_of(indices)))
        self._store.clear()
        self._prefixes.clear()
        self._launched = self._results.mark()
        return schedule.budget

    def finish(self) -> Encoded:
        """Wait for what was launched and hand it over."""
        return Encoded(
            vectors=self._results.vectors(self._launched),
            forwards=len(self._fills),
            filled=sum(self._fills),
            too_large=tuple(sorted(self._too_large)),
        )

    def _passed(self, indices: tuple[int, ...]) -> None:
        if not self._schedule.is_prefix(indices[0]):
            self._fills.append(min(1.0, self._schedule.budget.fill(self._schedule.costs_of(indices))))

    def _lost(self, unit: int, problem: str) -> None:
        items = self._schedule.drop(unit) if self._schedule.is_prefix(unit) else [unit]
        self._too_large += [(item, problem) for item in items]

    def _attempt(self, indices: tuple[int, ...]) -> str | None:
        """Launch the micro-batch `indices`, the next one on its way meanwhile; why it did not fit."""
        try:
            batch = self._batch(indices)
            self._ahead = self._look_ahead(indices)
            self._compute(batch, indices)
        except (RuntimeError, MemoryError) as error:
            return memory_problem(error)
        return None

    def _alone(self, indices: tuple[int, ...]) -> str | None:
        """Launch `indices` with no micro-batch on its way; why it did not fit even so."""
        try:
            self._compute(self._collated(indices, frozenset(self._store)), indices)
        except (RuntimeError, MemoryError) as error:
            problem = memory_problem(error)
        else:
            return None
        self._release()
        return problem

    def _compute(self, batch: PackedBatch, indices: tuple[int, ...]) -> None:
        keep = self._schedule.wanted_later(indices)
        if self._schedule.is_prefix(indices[0]):
            self._prefixes |= dict(zip(indices, self._model.read(batch, self._store, keep), strict=True))
        else:
            pooled = self._model(batch, self._store, keep, self._prefixes)
            self._results.take(indices, self._head(pooled))
        for key in self._store.keys() & (self._shown(indices) - keep):
            del self._store[key]
        for prefix in [each for each in self._prefixes if not self._schedule.continued_later(each)]:
            del self._prefixes[prefix]

    def _batch(self, indices: tuple[int, ...]) -> PackedBatch:
        batch = self._arrived(indices)
        if batch is not None and self._store.keys() >= set(batch.borrowed):
            return batch
        return self._collated(indices, frozenset(self._store))

    def _arrived(self, indices: tuple[int, ...]) -> PackedBatch | None:
        """What was collated ahead, if it is `indices` and fitted beside the forward before it."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.indices != indices:
            return None
        try:
            return ahead.batch.result()
        except (RuntimeError, MemoryError) as error:
            memory_problem(error)
        # The forward before it is over: no reason to pack less. The error holds what was copied before it came.
        del ahead
        self._release()
        return None

    def _look_ahead(self, running: tuple[int, ...]) -> _Ahead | None:
        upcoming = self._schedule.upcoming
        if self._helper is None or upcoming is None:
            return None
        kept = frozenset(self._store) | self._schedule.wanted_later(running)
        return _Ahead(upcoming, self._helper.submit(self._collated, upcoming, kept))

    def _collated(self, indices: tuple[int, ...], kept: Collection[int]) -> PackedBatch:
        units, blocks = [self._units[index] for index in indices], [self._blocks[index] for index in indices]
        return self._sender.send(collate(units, blocks, kept, self._shape, self._continued(indices)))

    def _continued(self, indices: tuple[int, ...]) -> list[tuple[int, int]]:
        if self._schedule.is_prefix(indices[0]):
            return []
        prefixes = [self._schedule.prefix_of(index) for index in indices]
        return [(each, 0 if each == WHOLE else self._units[each].n_tokens) for each in prefixes]

    def _shown(self, indices: tuple[int, ...]) -> set[int]:
        return {key for index in indices for key in self._keys[index]}

    def _quieten(self) -> None:
        """Give up the micro-batch on its way: its copies may be what took the memory, or what there was none for."""
        if self._ahead is not None:
            wait([self._ahead.batch])
            self._ahead = None
        self._release()

    def _release(self) -> None:
        if self._sender.device.type == "cuda":
            torch.cuda.empty_cache()
