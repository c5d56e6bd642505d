"""Preparation beside a model: files are read and prompts made in the model's process, media decoded in children.

In: official items, each with its role. Out: for each, in order, what the maker of that role makes of it, or a `Reject`
(its id is the item's index). An item that kills its child is tried once more, alone, and then rejected
(`pipeline.decode_pool`); no other item is lost with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectError
from pipeline.fetch import Fetcher
from pipeline.official import OfficialItem
from pipeline.policy import FetchPolicy
from pipeline.preparation import Maker, Preparation
from pipeline.prepare import Preparer
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import RerankHalf
from pipeline.rerank.prepare import RerankPreparer
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, Prepared, Reject

__all__ = ["DOCUMENT", "ITEM", "QUERY", "Makers", "PreparePool", "Task", "embed_makers", "rerank_makers"]

ITEM, QUERY, DOCUMENT = "item", "query", "document"
"""Roles: an embedder's only one, and the two of a reranker."""

READERS = 8
"""Items whose files are read at the same time, and ahead of their turn."""

Made = TypeVar("Made")

Makers = Mapping[str, Maker[Made]]
"""How an item of each role is prepared."""

Task = tuple[str, OfficialItem]
"""A role and an item of it."""


def embed_makers(folder: Path, inputs: InputsConfig) -> Makers[Prepared]:
    """How an embedder's items are prepared; `folder` has its tokenizer. Raises ConfigError."""
    return {ITEM: Preparer(PromptTokenizer(folder), inputs)}


def rerank_makers(folder: Path, inputs: RerankInputs) -> Makers[RerankHalf]:
    """How a reranker's queries and documents are prepared; `folder` has its tokenizer. Raises ConfigError."""
    makers = RerankPreparer(PromptTokenizer(folder, "reranker"), inputs).makers
    return {QUERY: makers["query"], DOCUMENT: makers["document"]}


class PreparePool(Generic[Made]):
    """Makers, a fetcher, and `processes` children that decode, started with the first medium; `close` ends them."""

    def __init__(
        self,
        make: Callable[[], Makers[Made]],
        inputs: InputsConfig,
        policy: FetchPolicy,
        *,
        limits: DecodeConfig | None = None,
        processes: int = 1,
    ) -> None:
        """`make` is called once, beside the first item's files; `inputs` as it has them; `policy`: what may be read."""
        self._make = make
        self._fetcher = Fetcher(policy)
        limits = limits or DecodeConfig()
        self._pool = DecodePool(partial(equip_drafter, inputs, limits), limits, processes)
        self._threads = ThreadPoolExecutor(READERS + 1, thread_name_prefix="prepare")
        self._makers: Future[Makers[Made]] | None = None

    def check(self) -> Future[Makers[Made]]:
        """Load the tokenizer in a thread; the future raises ConfigError if it is not the model's."""
        if self._makers is None:
            self._makers = self._threads.submit(self._make)
        return self._makers

    def prepare(self, tasks: Sequence[Task]) -> list[Made | Reject]:
        """What came of each of `tasks`, in order; a reject's id is the index in `tasks`."""
        makers = self.check().result()
        loaded = ((index, got, makers[role]) for index, (role, got) in enumerate(self._loaded(tasks)))
        return [
            Reject(str(index), made.code, made.detail) if isinstance(made, RejectError) else made
            for index, made in Preparation(self._pool).many(loaded)
        ]

    def close(self) -> None:
        """End the children; the next item would start new ones."""
        self._pool.close()
        self._fetcher.close()

    def _loaded(self, tasks: Sequence[Task]) -> Iterator[tuple[str, LoadedItem | RejectError]]:
        upcoming = iter(enumerate(tasks))
        reading: deque[tuple[str, Future[LoadedItem | RejectError]]] = deque()
        while True:
            for index, (role, item) in islice(upcoming, READERS - len(reading)):
                reading.append((role, self._threads.submit(self._load, str(index), item)))
            if not reading:
                return
            role, future = reading.popleft()
            yield role, future.result()

    def _load(self, item_id: str, item: OfficialItem) -> LoadedItem | RejectError:
        try:
            media = tuple(
                LoadedMedia(one.kind, tuple(self._bytes(source) for source in one.sources)) for one in item.media
            )
        except RejectError as error:
            return error
        return LoadedItem(item_id, item.texts, media, item.instruction, item.fps, item.max_frames)

    def _bytes(self, source: bytes | str) -> bytes:
        return source if isinstance(source, bytes) else self._fetcher.fetch(source)
