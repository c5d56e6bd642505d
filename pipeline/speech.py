"""What a process says to people, on its terminal and in its logs: without secrets, and without what steers a terminal.

In: texts, log records, exceptions nobody caught. Out: the same, redacted (`pipeline.redaction`), with control
characters spelt out: an id or a file's name from a lake must not move the cursor or set a title. Nothing is refused.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from types import TracebackType

from pipeline.redaction import redact

__all__ = ["RedactingFormatter", "guard_process", "plain", "say"]

_STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but tab and newline, and those that turn a text's direction around."""


def plain(text: str) -> str:
    """`text` with control characters spelt out, as `\\x1b`; tabs and line breaks stay."""
    return _STEERING.sub(_spelt, text)


def say(text: str) -> None:
    """Print `text` for people."""
    print(plain(redact(text)))


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
        logging.basicConfig(handlers=[handler], level=logging.WARNING)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(RedactingFormatter())
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
