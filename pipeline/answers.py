"""How a store answers questions about its objects, counted, so that a broken store or role is told from broken objects.

In: questions. Out: their answers, or the reject that stands for one. Raises IncompleteError where too many failed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import IncompleteError, RejectCode, RejectError

__all__ = ["Answers"]

T = TypeVar("T")

_FAILED_MIN = 10
_FAILED_FRACTION = 0.05
"""More failures than both are a store or a role that is broken, not some objects that are."""

_EARLY_ASKED = 200
_EARLY_FRACTION = 0.5
"""Seconds of asking tell expired credentials; retrying a whole lake against them takes a night."""

_STRANGER_FRACTION = 0.5
"""Of web hosts that nobody named: of old lists of URLs a third leads nowhere, and more is a network that is down."""

_FAILURES = frozenset({RejectCode.ACCESS_DENIED, RejectCode.FETCH_FAILED, RejectCode.FETCH_TIMEOUT})
"""What judges nothing. That there is no such object, or a too large one, is an answer."""


class Answers:
    """The count, kept by the threads that ask. `is_stranger` tells of a URI whether nobody vouches for its store."""

    def __init__(self, is_stranger: Callable[[str], bool] = lambda _: False) -> None:
        self._lock = threading.Lock()
        self._is_stranger = is_stranger
        self._asked = 0
        self._codes: Counter[RejectCode] = Counter()
        self._strangers: Counter[RejectCode] = Counter()
        self._example = ""

    def to(self, question: Callable[[str], T], uri: str) -> T | RejectError:
        """What `question` gives for `uri`, or the reject it raises. Raises IncompleteError once most have failed."""
        self._check_early()
        try:
            answer = question(uri)
        except RejectError as error:
            self._failed(error, uri)
            return error
        self.given(1)
        return answer

    def given(self, count: int) -> None:
        """Note `count` good answers."""
        with self._lock:
            self._asked += count

    def check(self) -> None:
        """Raise IncompleteError if more failed than a sound store would let."""
        with self._lock:
            if self._codes.total() > max(_FAILED_MIN, _FAILED_FRACTION * self._asked):
                raise self._stopped(self._codes)
            if self._strangers.total() > max(_FAILED_MIN, _STRANGER_FRACTION * self._asked):
                raise self._stopped(self._strangers)

    def _failed(self, error: RejectError, uri: str) -> None:
        # What the policy refuses is no question.
        if error.code is RejectCode.URI_NOT_ALLOWED:
            return
        with self._lock:
            self._asked += 1
            if error.code in _FAILURES:
                codes = self._strangers if self._is_stranger(uri) else self._codes
                codes[error.code] += 1
                self._example = self._example or str(error)

    def _check_early(self) -> None:
        # Without the lock, which dozens of threads would wait for at each local file; a question late is early enough.
        if not self._codes or self._asked < _EARLY_ASKED:
            return
        with self._lock:
            if self._codes.total() > _EARLY_FRACTION * self._asked:
                raise self._stopped(self._codes)

    def _stopped(self, failed: Counter[RejectCode]) -> IncompleteError:
        codes = ", ".join(f"{code} {count}" for code, count in failed.most_common())
        return IncompleteError(
            f"the store refused or failed {failed.total()} of {self._asked} questions about objects ({codes}), "
            f"e.g. {self._example}; check credentials; nothing was changed; run again (or set inputs.identity: "
            "trust, which asks no store)"
        )
