"""Preparation in processes of its own, for callers that hold the model: torch and decoding never share a process.

In: official items, each with its role. Out: for each, in order, what the processes' maker makes of that role, or a
`Reject` (its id is the item's index). An item that kills its process is tried once more, alone, and then rejected as
`WORKER_CRASHED`; no other item is lost with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Generic, TypeVar

from loky.process_executor import ProcessPoolExecutor

from pipeline.config import InputsConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.official import OfficialItem
from pipeline.policy import FetchPolicy
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import RerankHalf
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, Prepared, Reject

__all__ = ["DOCUMENT", "ITEM", "QUERY", "Makers", "PreparePool", "Task", "embed_makers", "rerank_makers"]

ITEM, QUERY, DOCUMENT = "item", "query", "document"
"""Roles: an embedder's only one, and the two of a reranker."""

Made = TypeVar("Made")

Makers = Mapping[str, Callable[[LoadedItem], Made]]
"""How an item of each role is prepared; all may raise RejectError."""

Task = tuple[str, OfficialItem]
"""A role and an item of it."""


def embed_makers(folder: Path, inputs: InputsConfig) -> Makers[Prepared]:
    """How an embedder's items are prepared; `folder` has its tokenizer. Raises ConfigError."""
    # Only the preparing process loads decoders, and this module is imported beside the model too.
    from pipeline.prepare import Preparer

    return {ITEM: Preparer(PromptTokenizer(folder), inputs).prepare}


def rerank_makers(folder: Path, inputs: RerankInputs) -> Makers[RerankHalf]:
    """How a reranker's queries and documents are prepared; `folder` has its tokenizer. Raises ConfigError."""
    from pipeline.rerank.prepare import RerankPreparer

    preparer = RerankPreparer(PromptTokenizer(folder, "reranker"), inputs)
    return {QUERY: preparer.query, DOCUMENT: preparer.document}


class PreparePool(Generic[Made]):
    """`processes` worker processes, started with the first item and stopped by `close`."""

    def __init__(self, equip: Callable[[], Makers[Made]], policy: FetchPolicy, processes: int = 1) -> None:
        """`equip` travels to each process and is called there, once; `policy`: what may be read."""
        self._equip = equip
        self._policy = policy
        self._processes = processes
        self._executor: ProcessPoolExecutor | None = None

    def check(self) -> Future[None]:
        """Start a process and load the tokenizer there; the future raises ConfigError if it is not the model's."""
        future: Future[None] = self._started().submit(_check)
        return future

    def prepare(self, tasks: Sequence[Task]) -> list[Made | Reject]:
        """What came of each of `tasks`, in order; a reject's id is the index in `tasks`."""
        futures = [self._submit(index, task) for index, task in enumerate(tasks)]
        results = [_result(future) for future in futures]
        # Whoever broke the pool, all that was in it is lost: once it is idle, each is tried where it can hurt no other.
        return [self._alone(index, tasks[index]) if result is None else result for index, result in enumerate(results)]

    def close(self) -> None:
        """Stop the processes; the next item would start new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def _alone(self, index: int, task: Task) -> Made | Reject:
        result = _result(self._submit(index, task))
        if result is not None:
            return result
        self.close()
        return Reject(str(index), RejectCode.WORKER_CRASHED, "the preparing process died of this item")

    def _submit(self, index: int, task: Task) -> Future[Made | Reject]:
        try:
            future: Future[Made | Reject] = self._started().submit(_prepare, str(index), *task)
        except BrokenProcessPool:
            self.close()
            future = self._started().submit(_prepare, str(index), *task)
        return future

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._processes, initializer=_remember, initargs=(self._equip, self._policy), timeout=None
            )
        return self._executor


def _result(future: Future[Made | Reject]) -> Made | Reject | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


class _Tools:
    """What one preparing process keeps from item to item."""

    def __init__(self, equip: Callable[[], Makers[object]], policy: FetchPolicy) -> None:
        keep_freed_memory()
        self.fetcher = Fetcher(policy)
        self.makers = equip()


_settings: list[tuple[Callable[[], Makers[object]], FetchPolicy]] = []
_tools: list[_Tools] = []


def _remember(equip: Callable[[], Makers[object]], policy: FetchPolicy) -> None:
    # Loading here would break the pool without telling why; a task's exception reaches the caller.
    _settings[:] = [(equip, policy)]


def _ready() -> _Tools:
    if not _tools:
        _tools.append(_Tools(*_settings[0]))
    return _tools[0]


def _check() -> None:
    _ready()


def _prepare(item_id: str, role: str, item: OfficialItem) -> object:
    tools = _ready()
    try:
        media = tuple(
            LoadedMedia(one.kind, tuple(_bytes(tools.fetcher, source) for source in one.sources)) for one in item.media
        )
        loaded = LoadedItem(item_id, item.texts, media, item.instruction, item.fps, item.max_frames)
        return tools.makers[role](loaded)
    except RejectError as error:
        return Reject(item_id, error.code, error.detail)


def _bytes(fetcher: Fetcher, source: bytes | str) -> bytes:
    return source if isinstance(source, bytes) else fetcher.fetch(source)
