"""Prepare, of a rerank run: tiles in, windows of pairs out. Runs in CPU actors that never import torch, nor a decoder.

A stage never raises on data: a side that cannot be fetched, decoded or templated is told in each of its pairs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import RejectError
from pipeline.manifest.work import from_work_table
from pipeline.preparation import Preparation
from pipeline.redaction import redacted_errors
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import RerankHalf
from pipeline.rerank.prepare import RerankPreparer
from pipeline.rerank.schema import PAIR_FIELDS
from pipeline.rerank.window import pack_pairs
from pipeline.stages.held_halves import HeldHalves
from pipeline.stages.load_guard import guarded
from pipeline.stages.meter import is_draining
from pipeline.stages.preparing import PrepareSettings, set_up
from pipeline.stages.window_limits import Outflow, WindowLimits
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, Prepared, WorkItem
from pipeline.window import window_bytes

__all__ = ["PairSource", "PreparePairsStage", "pair_windows"]

_FACTS = [each.name for each in PAIR_FIELDS]

Load = Callable[[Iterable[WorkItem]], Iterator[tuple[WorkItem, LoadedItem | RejectError]]]


@dataclass(frozen=True, slots=True)
class Side:
    """A query or a document of a tile: which of the two and its place there, and the item."""

    key: tuple[str, int]
    item: WorkItem


Make = Callable[[Iterable[Side]], Iterator[tuple[Side, RerankHalf | RejectError]]]
Guard = Callable[[Sequence[Side], Make], Iterator[tuple[Side, RerankHalf | RejectError]]]
"""Makes sides in order, one at a time where that is safer (`stages.load_guard`)."""


def _unguarded(sides: Sequence[Side], make: Make) -> Iterator[tuple[Side, RerankHalf | RejectError]]:
    return make(sides)


@dataclass(frozen=True, slots=True)
class PairSource:
    """A tile (one row of `rerank.schema.TILES`), and whatever loads, prepares and decodes its sides."""

    tile: pa.Table
    load_many: Load
    preparer: RerankPreparer
    preparation: Preparation
    guard: Guard = _unguarded


class PreparePairsStage:
    """The callable that Ray Data runs in preparation actors."""

    @redacted_errors
    def __init__(self, settings: PrepareSettings[RerankInputs], meter: Any) -> None:  # noqa: ANN401 - an actor handle
        self._workplace = set_up(settings, meter)
        self._preparer = RerankPreparer(PromptTokenizer(self._workplace.tokenizer, "reranker"), settings.inputs)
        self._limits = settings.window
        self._meter = meter

    @redacted_errors
    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Windows of the pairs of `block`'s tiles (`rerank.schema.TILES`), nothing once the run is draining."""
        if is_draining(self._meter):
            return
        load_many, preparation = self._workplace.fetcher.load_many, self._workplace.preparation
        for place in range(block.num_rows):
            tile = block.slice(place, 1)
            source = PairSource(tile, load_many, self._preparer, preparation, self._guard(tile))
            for window in pair_windows(source, self._limits):
                self._meter.prepared.remote(len(window.column("pairs")[0]))
                yield window

    def _guard(self, tile: pa.Table) -> Guard:
        names = [f"{pair['query_id']!r} {pair['doc_id']!r}" for pair in tile.column("pairs")[0].as_py()]
        # A side is in many tiles, of which others may be under way: it is named by the one that it is in.
        scope = hashlib.blake2b("\n".join(names).encode("utf-8", "replace"), digest_size=16).hexdigest()

        def guard(sides: Sequence[Side], make: Make) -> Iterator[tuple[Side, RerankHalf | RejectError]]:
            return guarded(self._meter, [f"{scope} {side.key} {side.item.id}" for side in sides], sides, make)

        return guard


def pair_windows(
    source: PairSource, limits: WindowLimits, now: Callable[[], float] = time.monotonic
) -> Iterator[pa.Table]:
    """Prepare the pairs of a tile into windows that `limits` close.

    Tokens count what must be computed: those of a shared half once. What is made goes out before the next pair is
    waited for, if the last one took the window over its age.
    """
    pairs = source.tile.column("pairs")[0].as_py()
    halves, outflow = _Halves(source, pairs, HeldHalves(limits.max_bytes)), Outflow(limits, now)
    window, started = _Window(), now()
    for place, pair in enumerate(pairs, start=1):
        window.add(pair, halves, source.preparer)
        if outflow.closes(window.n_bytes, window.n_tokens):
            yield from outflow.send(window.packed(now() - started, outflow.least_bytes))
            halves.make_room(pairs[place:])
            window, started = _Window(), now()
    if window.pairs:
        yield from outflow.send(window.packed(now() - started, outflow.least_bytes))


class _Halves:
    """Halves of a tile's pairs, prepared when they are first needed, in whose order files are fetched ahead."""

    def __init__(self, source: PairSource, pairs: list[dict[str, Any]], held: HeldHalves) -> None:
        self._source = source
        self._held = held
        tile = source.tile
        self._items = {side: _items(tile, column) for side, column in (("query", "queries"), ("document", "documents"))}
        self._ahead = self._prepared(list(dict.fromkeys(_sides(pairs))))
        self._seen: set[tuple[str, int]] = set()

    def of(self, pair: dict[str, Any]) -> tuple[RerankHalf, RerankHalf]:
        """Both halves of `pair`. Raises RejectError."""
        # Both are asked for before either is judged: what is read ahead comes in the order of all that pairs name.
        query, document = (self._get(side, pair[side]) for side in ("query", "document"))
        for side, half in (("query", query), ("document", document)):
            if isinstance(half, RejectError):
                raise RejectError(half.code, f"{side}: {half.detail}")
        assert isinstance(query, RerankHalf)
        assert isinstance(document, RerankHalf)
        return query, document

    def _get(self, side: str, place: int) -> RerankHalf | RejectError:
        key = (side, place)
        half = self._held.get(key)
        if half is None:
            half = self._next(key)
            self._held.put(key, half)
        return half

    def make_room(self, coming: list[dict[str, Any]]) -> None:
        """Between windows: hold no more than may be held, and of that what the pairs `coming` need first."""
        self._held.make_room(_sides(coming))

    def _next(self, key: tuple[str, int]) -> RerankHalf | RejectError:
        if key in self._seen:
            # Dropped after an earlier window, and read again: unguarded, since it came through once, and what guards
            # the tile still counts the next sides as under way.
            return next(self._made([self._side(key)]))[1]
        self._seen.add(key)
        found, half = next(self._ahead)
        assert found == key, "halves are needed in the order in which they are read ahead"
        return half

    def _prepared(self, keys: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], RerankHalf | RejectError]]:
        for side, half in self._source.guard([self._side(key) for key in keys], self._made):
            yield side.key, half

    def _side(self, key: tuple[str, int]) -> Side:
        return Side(key, self._items[key[0]][key[1]])

    def _made(self, sides: Iterable[Side]) -> Iterator[tuple[Side, RerankHalf | RejectError]]:
        source, held = self._source, list(sides)
        loaded = source.load_many(side.item for side in held)
        makers = source.preparer.makers
        return source.preparation.many(
            (side, got, makers[side.key[0]]) for side, (_, got) in zip(held, loaded, strict=True)
        )


@dataclass(slots=True)
class _Window:
    """Pairs on their way into one window, and the distinct halves that they are made of."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    halves: list[Prepared] = field(default_factory=list)
    places: dict[tuple[str, str, int], int] = field(default_factory=dict)
    n_bytes: int = 0
    n_tokens: int = 0

    def add(self, pair: dict[str, Any], halves: _Halves, preparer: RerankPreparer) -> None:
        facts = {name: pair[name] for name in _FACTS}
        try:
            made = preparer.pair(*halves.of(pair))
        except RejectError as error:
            self.pairs.append(facts | _rejected(error))
            return
        prefix, is_new = self._place("prefix", made.prefix)
        self.n_tokens += made.suffix.n_tokens + (made.prefix.n_tokens if is_new else 0)
        suffix, _ = self._place("suffix", made.suffix)
        self.pairs.append(
            facts
            | {
                "prefix": prefix,
                "suffix": suffix,
                "truncated": made.truncated,
                "n_tokens": made.n_tokens,
                "n_visual_tokens": made.prefix.n_visual_tokens + made.suffix.n_visual_tokens,
            }
        )

    def packed(self, prepare_s: float, least_bytes: int) -> pa.Table:
        return pack_pairs(self.halves, self.pairs, prepare_s, least_bytes)

    def _place(self, side: str, half: Prepared) -> tuple[int, bool]:
        # Equal contents under different ids are one half; a cut one is as long as no other of its content.
        key = (side, half.content_hash, half.n_tokens)
        is_new = key not in self.places
        if is_new:
            self.places[key] = len(self.halves)
            self.halves.append(half)
            self.n_bytes += window_bytes(half)
        return self.places[key], is_new


def _sides(pairs: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    """In the order of need, as often as needed."""
    return ((side, pair[side]) for pair in pairs for side in ("query", "document"))


def _items(tile: pa.Table, column: str) -> list[WorkItem]:
    return from_work_table(pa.Table.from_struct_array(tile.column(column)[0].values))


def _rejected(error: RejectError) -> dict[str, Any]:
    meaning = error.code.meaning
    return {"code": str(error.code), "detail": error.detail, "retryable": meaning.retryable}
