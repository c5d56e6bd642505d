"""How a job's driver begins and ends, whatever the job: its summary, its stop requests, its exit code.

In: a summary and what the job does. Out: the exit code, and `summary.json` with it, however the job ended.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pipeline.errors import ExitCode, LakevecError, scrub
from pipeline.progress import Status
from pipeline.stages.committer import Committer
from pipeline.stages.losses import no_space
from pipeline.stages.meter import Reading
from pipeline.stop import StopRequest, listen_for_stop
from pipeline.storage import Store, open_store
from pipeline.storage_errors import is_full
from pipeline.summary import Summary, summary_path, write_summary

__all__ = ["Body", "drive", "judge", "status_of", "sweep", "timed"]

SUMMARY_DEADLINE_S = 5.0
"""A run that failed because its output is out of reach should not wait for it a second time."""

Body = Callable[[Summary, StopRequest, Callable[[], None]], ExitCode]
"""What a job does: fills in the summary, heeds the stop request, and calls the third argument once Ray has put its own
signal handlers in place of ours."""

_log = logging.getLogger("lakevec")


def drive(summary: Summary, body: Body) -> ExitCode:
    """Run `body` to its end, write `summary.json`, and return the exit code.

    Raises LakevecError for what the user must mend; its exit code is in the summary too.
    """
    budget_s = summary.config.run.max_runtime_s
    stop = StopRequest(None if budget_s is None else time.monotonic() + budget_s)
    with listen_for_stop(stop) as listen_again:
        try:
            exit_code = _told_of_space(body, summary, stop, listen_again)
        except LakevecError as error:
            summary.message = str(error)
            _leave(summary, error.exit_code, stop)
            raise
        except KeyboardInterrupt:
            _leave(summary, ExitCode.INTERRUPTED, stop)
            raise
        except Exception as error:
            summary.message = scrub(f"{type(error).__name__}: {error}")
            _leave(summary, ExitCode.FAILED, stop)
            raise
        # Still listening: a store that answers nothing would hold the process here as well.
        _leave(summary, exit_code, stop)
    return exit_code


def status_of(summary: Summary, committer: Committer, to_do: int, reading: Reading, phase: str) -> Status:
    """What the live view shows: of `to_do` items, what the stages have done by `reading` and what is committed."""
    tally = summary.tally
    return Status(
        total=to_do,
        prepared=reading.prepared,
        encoded=reading.encoded,
        written=tally.items,
        committed=committer.committed_items,
        rejects=tally.rejects.total(),
        tokens=tally.tokens,
        phase=phase,
    )


def judge(summary: Summary, rejects: int) -> ExitCode:
    """The exit code of a complete run whose output has `rejects` rejects for `counts.items` items."""
    allowed, fraction = summary.config.run.max_reject_fraction, rejects / max(1, summary.counts["items"])
    if fraction <= allowed:
        return ExitCode.COMPLETE
    summary.message = (
        f"{rejects} of {summary.counts['items']} {summary.items_called} are rejects ({fraction:.1%}), more than "
        f"run.max_reject_fraction ({allowed:.1%})"
    )
    return ExitCode.TOO_MANY_REJECTS


def sweep(store: Store, folder: str) -> None:
    """Delete `folder` of `store` and all in it."""
    for stored in store.list(folder):
        store.delete(stored.path)
    if store.is_local:
        shutil.rmtree(store.full(folder), ignore_errors=True)  # an object store has no empty folders to leave


@contextmanager
def timed(summary: Summary, stage: str) -> Iterator[None]:
    """Add the block's seconds to `summary.seconds[stage]`."""
    started = time.monotonic()
    try:
        yield
    finally:
        summary.seconds[stage] = summary.seconds.get(stage, 0.0) + time.monotonic() - started


def _told_of_space(body: Body, summary: Summary, stop: StopRequest, listen_again: Callable[[], None]) -> ExitCode:
    try:
        return body(summary, stop, listen_again)
    except OSError as error:
        if is_full(error):
            raise no_space(str(error)) from None
        raise


def _leave(summary: Summary, exit_code: ExitCode, stop: StopRequest) -> None:
    # How the run ended is decided: a signal only sets its last seconds running.
    stop.patient = True
    try:
        store = open_store(summary.config.output.path, summary.config.fetch.storage_options)
        store = replace(store, deadline_s=SUMMARY_DEADLINE_S)
        document = write_summary(store, summary, exit_code)
    except Exception as error:  # noqa: BLE001 - the run's own outcome counts, whatever the store makes of its summary
        _log.warning("summary.json could not be written: %s", scrub(f"{type(error).__name__}: {error}"))
        return
    counts = document["counts"]
    _log.info(
        "%s (exit code %d): %d %s, %d %s, %d rejects, %d encoded in %.1f s; %s",
        document["status"], exit_code, counts["items"], summary.items_called, counts[summary.made],
        summary.made, counts["rejects"], counts["encoded"], document["seconds"]["total"],
        store.uri(summary_path(summary.run_id)),
    )  # fmt: skip
    if summary.message and exit_code == ExitCode.TOO_MANY_REJECTS:
        _log.warning("%s", summary.message)
