"""What a process says to people, on its terminal and in its logs: without secrets, and without what steers a terminal.

In: texts, log records, exceptions nobody caught. Out: the same, redacted (`pipeline.redaction`), with control
characters spelt out: an id or a file's name from a lake must not move the cursor or set a title. Nothing is refused.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from pipeline.redaction import redact

__all__ = ["PER_MINUTE", "RedactingFormatter", "Sampled", "guard_process", "plain", "say"]

PER_MINUTE = 10
"""Enough examples to see what is wrong."""

_MINUTE_S = 60.0
_KIND_CHARS = 200
_MOST_KINDS = 1000
"""What is remembered of messages is bounded, too."""

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn a text's direction around."""


def plain(text: str) -> str:
    """`text` with control characters spelt out, as `\\x1b`; tabs and line breaks stay."""
    return _STEERING.sub(_spelt, text)


def say(text: str) -> None:
    """Print `text` for people."""
    print(plain(redact(text)))


class Sampled(logging.Filter):
    """Lets `PER_MINUTE` records of one kind (logger and message before its arguments) through a minute.

    The first that comes after some were left out says how many. A million rejects must not fill a disk with their log.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` may pass."""
        kind = (record.name, str(record.msg)[:_KIND_CHARS])
        with self._lock:
            if len(self._seen) >= _MOST_KINDS and kind not in self._seen:
                kind = (record.name, "")  # texts put together before they were logged: no two are alike
            minute = self._seen.setdefault(kind, _Minute(self._now()))
            if self._now() - minute.began_s >= _MINUTE_S:
                minute.began_s, minute.passed = self._now(), 0
            if minute.passed >= PER_MINUTE:
                minute.left_out += 1
                return False
            minute.passed += 1
            left_out, minute.left_out = minute.left_out, 0
        if left_out:
            record.msg = f"{record.msg} ({left_out} more like it were left out)"
        return True


@dataclass(slots=True)
class _Minute:
    began_s: float
    passed: int = 0
    left_out: int = 0


class RedactingFormatter(logging.Formatter):
    """A log line as any formatter makes it, traceback included, then redacted and made plain."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return plain(redact(super().format(record)))


def guard_process(log_format: str | None = None) -> None:
    """Let whatever this process logs or dies of be redacted: its root log, Python's last resort, uncaught exceptions.

    With `log_format` the root log goes to standard error in that form. Does nothing to handlers that are there.
    """
    if log_format is not None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(RedactingFormatter(log_format))
        handler.addFilter(Sampled())
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(RedactingFormatter())
        if not logging.lastResort.filters:
            logging.lastResort.addFilter(Sampled())
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def _spelt(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    print(plain(redact(text)), end="", file=sys.stderr)


def _uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
        _uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
