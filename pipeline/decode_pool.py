"""Decoding in children that may die: an item that hangs, crashes or eats memory costs itself and nothing else.

In: `MediaJob`s, submitted a few ahead. Out: `ReadMedia` in whatever order they are asked for. Refused, as RejectError:
what decoding refuses; and what it cannot survive, each after one more try alone in a fresh child: `DECODE_TIMEOUT`,
`DECODER_CRASHED`, `DECODE_MEMORY`.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from pebble import ProcessExpired, ProcessPool

from pipeline.config import DecodeConfig
from pipeline.decode_arena import Arena, Packed, arena_of
from pipeline.decode_child import ChildFacts, Equip, Refusal, child_facts, read, start
from pipeline.decode_launch import LaunchContext
from pipeline.errors import LakevecError, RejectCode, RejectError
from pipeline.media_job import MediaJob, ReadMedia

__all__ = ["DecodePool", "Ticket"]

GRACE_S = 60.0
"""What an answer may take beyond its own time: the server's start on a busy machine, the jobs before it in the queue
once they were given up, and bytes on their way. Only a pool that lost its way keeps anybody waiting so long."""

START_ATTEMPTS = 3  # a first child may be killed from outside, as any other

LOOK_S = 0.25  # how often it is looked whether a pool still works

SLOTS = 6
"""Answers that may lie in shared memory at a time, for each child: one in the making, and those not yet asked for."""

_KILLED = (ProcessExpired, BrokenProcessPool, RuntimeError)
"""A child that died; a pool that broke with it, as it does if the child dies while it talks; and a broken pool."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A job under way. `slot`: where in shared memory its answer goes, None if it comes through the pipe."""

    job: MediaJob
    future: Future[ReadMedia | Refusal | Packed] | None
    pool: ProcessPool
    slot: int | None
    is_spent: bool = False


class DecodePool:
    """`processes` children, started with the first job. Use it as a context manager, or `close` it.

    `equip` travels to each child and makes there what reads jobs. Not for several threads at once.
    """

    def __init__(self, equip: Equip, limits: DecodeConfig | None = None, processes: int = 1) -> None:
        self._equip = equip
        self._limits = limits or DecodeConfig()
        self._processes = processes
        self._context = LaunchContext()
        self._pool: ProcessPool | None = None
        self._arena = arena_of(SLOTS * processes)
        self._lock = threading.Lock()
        self._is_proven = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children and their server; the next job would start new ones."""
        with self._lock:
            if self._pool is not None:
                _end(self._pool)
                self._pool = None
            self._context.close()

    def check(self) -> Future[ChildFacts]:
        """Start a child, and equip it; the future raises ConfigError if that cannot be."""
        future: Future[ChildFacts] = self._started().schedule(child_facts)
        return future

    def submit(self, job: MediaJob) -> Ticket:
        """Have `job` read as soon as a child is free.

        Raises, with the first job, ConfigError if children cannot be equipped, LakevecError if none starts here.
        """
        self._prove()
        return self._sent(job, self._started(), self._arena.take() if self._arena else None)

    def result(self, ticket: Ticket) -> ReadMedia:
        """What became of the job. Raises RejectError, and ValueError where that was asked before."""
        if ticket.is_spent:
            raise ValueError("a ticket is good for one answer")
        ticket.is_spent = True
        try:
            answer = self._answer(ticket)
            if isinstance(answer, _Lost) and answer.pool_is_lost:
                self._forget(ticket.pool)
        finally:
            if self._arena and ticket.slot is not None:
                # Whoever wrote there has answered, or is dead: a child is killed before its job counts as lost.
                self._arena.give(ticket.slot)
        if isinstance(answer, _Lost) or (isinstance(answer, Refusal) and answer.code is RejectCode.DECODE_MEMORY):
            # Whatever came before it in its child is no excuse the second time.
            answer = self._alone(ticket.job)
        if isinstance(answer, Refusal):
            raise RejectError(answer.code, answer.detail)
        if isinstance(answer, _Lost):
            raise RejectError(answer.code, answer.detail(self._limits))
        return answer

    def abandon(self, ticket: Ticket) -> None:
        """Do without what becomes of the job; its child finishes it all the same."""
        ticket.is_spent = True
        if ticket.future is not None:
            ticket.future.add_done_callback(partial(self._take_back, ticket))

    def _take_back(self, ticket: Ticket, future: Future[Any]) -> None:
        # Where there is no answer, whoever should have given it may be writing still.
        if self._arena and ticket.slot is not None and not future.cancelled() and future.exception() is None:
            self._arena.give(ticket.slot)

    def _prove(self) -> None:
        """Where no child ever starts, that is the machine's fault and not one item's after another."""
        for attempt in range(START_ATTEMPTS):
            if self._is_proven:
                return
            try:
                future = self.check()
                wait([future], GRACE_S)
                future.result(0)
                self._is_proven = True
            except (*_KILLED, TimeoutError) as error:
                self._forget(self._started())
                if attempt + 1 == START_ATTEMPTS:
                    raise LakevecError(f"no decoding process starts here: {error or type(error).__name__}") from error

    def _alone(self, job: MediaJob) -> ReadMedia | Refusal | _Lost:
        pool = self._new(1)
        try:
            return self._answer(self._sent(job, pool, None))
        finally:
            _end(pool)

    def _sent(self, job: MediaJob, pool: ProcessPool, slot: int | None) -> Ticket:
        try:
            return Ticket(job, pool.schedule(read, args=(job, slot), timeout=self._limits.timeout_s), pool, slot)
        except _KILLED:
            return Ticket(job, None, pool, slot)

    def _answer(self, ticket: Ticket) -> ReadMedia | Refusal | _Lost:
        if ticket.future is None or not self._wait(ticket.future, ticket.pool):
            return _Lost(RejectCode.DECODER_CRASHED, None, pool_is_lost=True)
        try:
            answer = ticket.future.result()
        except TimeoutError:
            return _Lost(RejectCode.DECODE_TIMEOUT, None, pool_is_lost=False)
        except ProcessExpired as error:
            return _Lost(RejectCode.DECODER_CRASHED, error.exitcode, pool_is_lost=False)
        except _KILLED:
            return _Lost(RejectCode.DECODER_CRASHED, None, pool_is_lost=True)
        return self._unpacked(answer, ticket.slot) if isinstance(answer, Packed) else answer

    def _unpacked(self, packed: Packed, slot: int | None) -> ReadMedia:
        if self._arena is None or slot is None:
            raise AssertionError("only a job that was given a slot is answered from one")
        read_media: ReadMedia = self._arena.unpack(packed, slot)
        return read_media

    def _wait(self, future: Future[ReadMedia | Refusal | Packed], pool: ProcessPool) -> bool:
        """Whether the answer came, before its pool broke and within any time that it could take."""
        until = time.monotonic() + self._limits.timeout_s + GRACE_S
        while not wait([future], LOOK_S).done:
            # A pool that breaks tells those it knows of; a job that it was just being told of waits for ever.
            if not pool.active or time.monotonic() > until:
                return future.done()
        return True

    def _started(self) -> ProcessPool:
        with self._lock:
            if self._pool is None:
                self._pool = self._new(self._processes, self._arena)
            return self._pool

    def _new(self, processes: int, arena: Arena | None = None) -> ProcessPool:
        context: Any = self._context
        equipment = (self._equip, self._limits.memory_mb, arena)
        return ProcessPool(max_workers=processes, initializer=start, initargs=equipment, context=context)

    def _forget(self, pool: ProcessPool) -> None:
        """Give up `pool`, which is broken; the jobs that it still had are tried one by one, alone."""
        with self._lock:
            if pool is self._pool:
                _end(pool)
                self._pool = None


@dataclass(frozen=True, slots=True)
class _Lost:
    """A job without an answer. `exit_code`: of the child, negative for a signal, None where nobody knows."""

    code: RejectCode
    exit_code: int | None
    pool_is_lost: bool

    def detail(self, limits: DecodeConfig) -> str:
        if self.code is RejectCode.DECODE_TIMEOUT:
            return f"twice not done within {limits.timeout_s:g} s"
        how = "" if self.exit_code is None else f", the last time by {_named(self.exit_code)}"
        return f"the decoding process died of it twice{how}"


def _named(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"


def _end(pool: ProcessPool) -> None:
    pool.stop()
    pool.join()
