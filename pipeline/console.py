"""The end of a command whose reader has gone (`lakevec files INDEX | head`): quiet, with the status a shell expects.

In: a command's main function. Out: the same, that ends with PIPE_CLOSED where standard output or standard error was
closed by its reader. A broken pipe of anything else (a worker, a store) stays the error that it is.
"""

from __future__ import annotations

import functools
import logging
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, ParamSpec, TextIO

__all__ = ["PIPE_CLOSED", "ends_quietly", "leave"]

PIPE_CLOSED = 141
"""What a shell reports of a command that SIGPIPE ended; no status of a job's work, so no `errors.ExitCode`."""

P = ParamSpec("P")


def ends_quietly(main: Callable[P, int]) -> Callable[P, int]:
    """`main`, whose output is flushed before it returns, and whose status is PIPE_CLOSED if nobody reads it."""

    @functools.wraps(main)
    def run(*arguments: P.args, **named: P.kwargs) -> int:
        try:
            try:
                return main(*arguments, **named)
            finally:
                # Also after `--help`, which leaves by SystemExit: what fails here must not fail as Python ends.
                _flush()
        except BrokenPipeError:
            closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
            if not closed:
                raise
            for stream in closed:
                _silence(stream)
            return PIPE_CLOSED

    return run


def leave(status: int) -> NoReturn:
    """End the process with `status` now, once everything is written and nothing of the run is left open.

    A job's interpreter is not taken down piece by piece: native threads of its libraries may still be about. A process
    was seen to abort (SIGABRT) after a run that was complete, its summary written.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with suppress(OSError, ValueError):  # nobody reads it, which `ends_quietly` has judged
                stream.flush()
    os._exit(status)


def _flush() -> None:
    if sys.stdout is not None:  # a process started with it closed has none
        sys.stdout.flush()


def _has_no_reader(stream: TextIO | None) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno() if stream else -1, select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no stream of the operating system
        return False


def _silence(stream: TextIO) -> None:
    # Python flushes what is left once more as it ends; there it would write a traceback and change the status.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
