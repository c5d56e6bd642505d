"""Conversion in several processes: what planning does for a row is Python, and a lake has many rows.

In: the pieces of a manifest. Out: their `Candidates`, in the same order, a few pieces ahead at most. Raises what
conversion raises, and what reading the pieces does. A process that dies costs speed, nothing else.

Converted here, by the caller's own process, are: a manifest's first rows, so that a small one starts no process; pieces
that are heavy to send; and rows that a store has to be asked about, so that one count of its failures judges it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pyarrow as pa
from loky import cpu_count
from loky.process_executor import ProcessPoolExecutor

from pipeline.conversion import Candidates, Converter, Recipe
from pipeline.fetch import Fetcher
from pipeline.identity import Identifier
from pipeline.manifest.source import Piece

__all__ = ["ConversionPool"]

_ROWS_HERE = 50_000
"""Starting processes takes as long as converting this many rows: about two seconds."""

_PROCESSES = 8
"""Reading the manifest and writing the candidates, which one process does, takes about an eighth of all."""

_AHEAD = 3
"""Pieces under way for each process: one at work, one waiting, one converted."""

_AHEAD_BYTES = 64 << 20
"""Of all pieces under way: usually a megabyte each, and 32 where texts are long; each is there once more on its way."""

_ROW_BYTES = 4_096
"""Of rows larger than this (inline media) most of the cost is a hash, which runs faster than a pipe carries them."""

_LOOK_S = 1.0

Work = tuple[Piece, "Future[Candidates | None] | None"]


class ConversionPool:
    """Converts pieces as `recipe` says; `identifier` is what asks stores. Use as a context: no process outlives it."""

    def __init__(
        self, recipe: Recipe, identifier: Identifier, *, processes: int | None = None, rows_here: int = _ROWS_HERE
    ) -> None:
        self._recipe = recipe
        self._here = Converter(recipe, identifier)
        self._processes = min(cpu_count(), _PROCESSES) if processes is None else processes
        self._rows_left = rows_here
        self._executor: ProcessPoolExecutor | None = None
        self._is_broken = self._processes < 2
        self._pieces = 0
        self._pieces_asked = 0

    def __enter__(self) -> ConversionPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def convert(self, pieces: Iterable[Piece]) -> Iterator[Candidates]:
        """What each of `pieces` becomes, in order. Raises ManifestError, IncompleteError."""
        under_way: deque[Work] = deque()
        for piece in pieces:
            under_way.append((piece, self._sent(piece)))
            while under_way and (under_way[0][1] is None or self._is_full(under_way)):
                yield self._result(*under_way.popleft())
        while under_way:
            yield self._result(*under_way.popleft())

    def _is_full(self, under_way: deque[Work]) -> bool:
        held_bytes = sum(piece.table.nbytes for piece, _ in under_way)
        return len(under_way) > _AHEAD * self._processes or held_bytes > _AHEAD_BYTES

    def _sent(self, piece: Piece) -> Future[Candidates | None] | None:
        rows = piece.table.num_rows
        self._rows_left -= rows
        # Where most have to be asked about, another process would only find that out.
        is_for_here = self._is_broken or self._pieces_asked > self._pieces / 2
        if self._rows_left >= 0 or is_for_here or piece.table.nbytes > rows * _ROW_BYTES:
            return None
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._processes, initializer=_start, initargs=(self._recipe, os.getpid()), timeout=None
            )
        try:
            future: Future[Candidates | None] = self._executor.submit(
                _convert, replace(piece, table=piece.table.schema.empty_table()), _packed(piece.table)
            )
        except BrokenProcessPool:
            self._is_broken = True
            return None
        return future

    def _result(self, piece: Piece, future: Future[Candidates | None] | None) -> Candidates:
        try:
            found = future.result() if future else None
        except BrokenProcessPool:
            self._is_broken = True
            found = None
        made = self._here.convert(piece) if found is None else found
        self._pieces += 1
        self._pieces_asked += made.asked
        return made


def _packed(table: pa.Table) -> pa.Buffer:
    # Pickled as it is, a slice would bring along all that it was cut from.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


_recipes: list[Recipe] = []
_converters: list[Converter] = []


def _start(recipe: Recipe, parent: int) -> None:
    # Ctrl-C reaches every process of a terminal; the parent ends this one, in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_cpu_count(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _recipes[:] = [recipe]


def _end_with(parent: int) -> None:
    """End this process once `parent`, killed, cannot do it any more."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _convert(piece: Piece, rows: pa.Buffer) -> Candidates | None:
    if not _converters:
        # Not in `_start`: what fails there breaks the pool without telling why.
        recipe = _recipes[0]
        identifier = Identifier(Fetcher(recipe.policy), recipe.inputs.identity)
        _converters.append(Converter(recipe, identifier))
    return _converters[0].convert_unasked(replace(piece, table=pa.ipc.open_stream(rows).read_all()))
