"""Prepare, of a rerank run: tiles in, windows of pairs out. Runs in CPU actors that never import torch.

A stage never raises on data: a side that cannot be fetched, decoded or templated is told in each of its pairs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.checkpoint import resolve_same
from pipeline.config import ModelConfig
from pipeline.errors import RejectCode, RejectError, scrub
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.manifest.work import from_work_table
from pipeline.policy import FetchPolicy
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import RerankHalf
from pipeline.rerank.prepare import RerankPreparer
from pipeline.rerank.schema import PAIR_FIELDS
from pipeline.rerank.window import pack_pairs
from pipeline.stages.load_guard import guarded_loads
from pipeline.stages.meter import is_draining
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, Prepared, WorkItem
from pipeline.window import window_bytes

__all__ = ["PairSettings", "PreparePairsStage", "pair_windows"]

_FACTS = [each.name for each in PAIR_FIELDS]

Load = Callable[[Iterable[WorkItem]], Iterator[tuple[WorkItem, LoadedItem | RejectError]]]


@dataclass(frozen=True, slots=True)
class PairSettings:
    """Everything a preparer of pairs needs, small enough to be pickled into every actor."""

    model: ModelConfig
    identity: str
    inputs: RerankInputs
    policy: FetchPolicy
    window_bytes: int
    window_tokens: int


class PreparePairsStage:
    """The callable that Ray Data runs in preparation actors."""

    def __init__(self, settings: PairSettings, meter: Any) -> None:  # noqa: ANN401 - an actor handle
        keep_freed_memory()
        checkpoint = resolve_same(settings.model, settings.identity, weights=False)
        self._settings = settings
        self._meter = meter
        self._fetcher = Fetcher(settings.policy)
        self._preparer = RerankPreparer(PromptTokenizer(checkpoint.folder, "reranker"), settings.inputs)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """Windows of the pairs of `block`'s tiles (`rerank.schema.TILES`), nothing once the run is draining."""
        if is_draining(self._meter):
            return
        settings = self._settings
        for place in range(block.num_rows):
            bounds = (settings.window_bytes, settings.window_tokens)
            tile = block.slice(place, 1)
            for window in pair_windows(tile, self._guarded(tile), self._preparer, *bounds):
                self._meter.prepared.remote(len(window.column("pairs")[0]))
                yield window

    def _guarded(self, tile: pa.Table) -> Load:
        names = [f"{pair['query_id']!r} {pair['doc_id']!r}" for pair in tile.column("pairs")[0].as_py()]
        # A side is in many tiles, of which others may be under way: it is named by the one that it is in.
        scope = hashlib.blake2b("\n".join(names).encode("utf-8", "replace"), digest_size=16).hexdigest()

        def load(items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
            held = list(items)
            keys = [f"{scope} {place} {item.id}" for place, item in enumerate(held)]
            return guarded_loads(self._meter, keys, held, self._fetcher.load_many)

        return load


def pair_windows(
    tile: pa.Table, load_many: Load, preparer: RerankPreparer, max_bytes: int, max_tokens: int
) -> Iterator[pa.Table]:
    """Prepare the pairs of `tile` (one row) into windows, each closed at `max_bytes` of pixels or `max_tokens`.

    A window holds at least one pair, so a single one may be larger than both. Tokens count what must be computed: those
    of a shared half once.
    """
    pairs = tile.column("pairs")[0].as_py()
    halves = _Halves(tile, pairs, load_many, preparer)
    window = _Window()
    for pair in pairs:
        window.add(pair, halves, preparer)
        if window.n_bytes >= max_bytes or window.n_tokens >= max_tokens:
            yield window.packed()
            # What this window showed is not held for the next ones: pixels of a whole tile may be gigabytes.
            halves.forget(but_query=pair["query"])
            window = _Window()
    if window.pairs:
        yield window.packed()


class _Halves:
    """Halves of a tile's pairs, prepared when they are first needed, in whose order files are fetched ahead."""

    def __init__(self, tile: pa.Table, pairs: list[dict[str, Any]], load_many: Load, preparer: RerankPreparer) -> None:
        self._items = {side: _items(tile, column) for side, column in (("query", "queries"), ("document", "documents"))}
        self._prepare = {"query": preparer.query, "document": preparer.document}
        self._load_many = load_many
        wanted = list(dict.fromkeys((side, pair[side]) for pair in pairs for side in ("query", "document")))
        self._ahead = zip(wanted, load_many(self._items[side][place] for side, place in wanted), strict=True)
        self._found: dict[tuple[str, int], RerankHalf | RejectError] = {}
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
        if key not in self._found:
            got = self._next(key)
            self._found[key] = got if isinstance(got, RejectError) else self._prepared(side, got)
        return self._found[key]

    def forget(self, but_query: int) -> None:
        """Drop what is prepared, but the query that goes on."""
        self._found = {key: half for key, half in self._found.items() if key == ("query", but_query)}

    def _next(self, key: tuple[str, int]) -> LoadedItem | RejectError:
        if key in self._seen:
            # It was forgotten with an earlier window, and is read again.
            return next(self._load_many([self._items[key[0]][key[1]]]))[1]
        self._seen.add(key)
        found, (_, got) = next(self._ahead)
        assert found == key, "halves are needed in the order in which they are read ahead"
        return got

    def _prepared(self, side: str, loaded: LoadedItem) -> RerankHalf | RejectError:
        try:
            return self._prepare[side](loaded)
        except RejectError as error:
            return error
        except Exception as error:  # noqa: BLE001 - one bad item never touches another, not even through our defects
            return RejectError(RejectCode.PREPARE_FAILED, scrub(f"{type(error).__name__}: {error}"))


@dataclass(slots=True)
class _Window:
    """Pairs on their way into one window, and the distinct halves that they are made of."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    halves: list[Prepared] = field(default_factory=list)
    places: dict[tuple[str, str, int], int] = field(default_factory=dict)
    n_bytes: int = 0
    n_tokens: int = 0
    started: float = field(default_factory=time.monotonic)

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

    def packed(self) -> pa.Table:
        return pack_pairs(self.halves, self.pairs, time.monotonic() - self.started)

    def _place(self, side: str, half: Prepared) -> tuple[int, bool]:
        # Equal contents under different ids are one half; a cut one is as long as no other of its content.
        key = (side, half.content_hash, half.n_tokens)
        is_new = key not in self.places
        if is_new:
            self.places[key] = len(self.halves)
            self.halves.append(half)
            self.n_bytes += window_bytes(half)
        return self.places[key], is_new


def _items(tile: pa.Table, column: str) -> list[WorkItem]:
    return from_work_table(pa.Table.from_struct_array(tile.column(column)[0].values))


def _rejected(error: RejectError) -> dict[str, Any]:
    meaning = error.code.meaning
    return {"code": str(error.code), "detail": error.detail, "retryable": meaning.retryable}
