"""Preparation in processes of its own, for callers that hold the model: torch and decoding never share a process.

In: official items. Out: for each, in order, `Prepared` or a `Reject` (its id is the item's index). An item that
kills its process is tried once more, alone, and then rejected as `WORKER_CRASHED`; no other item is lost with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from loky.process_executor import ProcessPoolExecutor

from pipeline.config import InputsConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.fetch import Fetcher
from pipeline.official import OfficialItem
from pipeline.policy import FetchPolicy
from pipeline.types import LoadedItem, LoadedMedia, Prepared, Reject

__all__ = ["PreparePool", "PrepareSettings"]


@dataclass(frozen=True, slots=True)
class PrepareSettings:
    """What a preparing process needs: the tokenizer's folder, the inputs config and what may be read."""

    folder: Path
    inputs: InputsConfig
    policy: FetchPolicy


class PreparePool:
    """`processes` worker processes, started with the first item and stopped by `close`."""

    def __init__(self, settings: PrepareSettings, processes: int = 1) -> None:
        self._settings = settings
        self._processes = processes
        self._executor: ProcessPoolExecutor | None = None

    def check(self) -> Future[None]:
        """Start a process and load the tokenizer there; the future raises ConfigError if it is not the embedder's."""
        future: Future[None] = self._started().submit(_check)
        return future

    def prepare(self, items: Sequence[OfficialItem]) -> list[Prepared | Reject]:
        """What came of each of `items`, in order; a reject's id is the item's index in `items`."""
        futures = [self._submit(index, item) for index, item in enumerate(items)]
        results = [_result(future) for future in futures]
        # Whoever broke the pool, all that was in it is lost: once it is idle, each is tried where it can hurt no other.
        return [self._alone(index, items[index]) if result is None else result for index, result in enumerate(results)]

    def close(self) -> None:
        """Stop the processes; the next item would start new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def _alone(self, index: int, item: OfficialItem) -> Prepared | Reject:
        result = _result(self._submit(index, item))
        if result is not None:
            return result
        self.close()
        return Reject(str(index), RejectCode.WORKER_CRASHED, "the preparing process died of this item")

    def _submit(self, index: int, item: OfficialItem) -> Future[Prepared | Reject]:
        try:
            future: Future[Prepared | Reject] = self._started().submit(_prepare, str(index), item)
        except BrokenProcessPool:
            self.close()
            future = self._started().submit(_prepare, str(index), item)
        return future

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._processes, initializer=_remember, initargs=(self._settings,), timeout=None
            )
        return self._executor


def _result(future: Future[Prepared | Reject]) -> Prepared | Reject | None:
    try:
        return future.result()
    except BrokenProcessPool:
        return None


class _Tools:
    """What one preparing process keeps from item to item."""

    def __init__(self, settings: PrepareSettings) -> None:
        # Only the preparing process loads decoders, and this module is imported beside the model too.
        from pipeline.heap import keep_freed_memory
        from pipeline.prepare import Preparer
        from pipeline.tokenizer import PromptTokenizer

        keep_freed_memory()
        self.fetcher = Fetcher(settings.policy)
        self.preparer = Preparer(PromptTokenizer(settings.folder), settings.inputs)


_settings: list[PrepareSettings] = []
_tools: list[_Tools] = []


def _remember(settings: PrepareSettings) -> None:
    # Loading here would break the pool without telling why; a task's exception reaches the caller.
    _settings[:] = [settings]


def _ready() -> _Tools:
    if not _tools:
        _tools.append(_Tools(_settings[0]))
    return _tools[0]


def _check() -> None:
    _ready()


def _prepare(item_id: str, item: OfficialItem) -> Prepared | Reject:
    tools = _ready()
    try:
        media = tuple(
            LoadedMedia(one.kind, tuple(_bytes(tools.fetcher, source) for source in one.sources)) for one in item.media
        )
        loaded = LoadedItem(item_id, item.texts, media, item.instruction, item.fps, item.max_frames)
        return tools.preparer.prepare(loaded)
    except RejectError as error:
        return Reject(item_id, error.code, error.detail)


def _bytes(fetcher: Fetcher, source: bytes | str) -> bytes:
    return source if isinstance(source, bytes) else fetcher.fetch(source)
