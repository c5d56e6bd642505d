"""Ownership of an index: one run at a time may commit to it.

In: a store, this run's id and compute fingerprint. Out: a `Claim` through which every commit of the run goes.
Refused: an index that a live run owns, and any commit after another run has taken over (OwnershipError).

A foreign claim falls when its process is certainly gone, or when neither its heartbeat nor the log has changed
for `quiet_s` on this run's own monotonic clock. A stale owner needs no clock to be kept out: the next sequence
number it puts is the claim that displaced it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pipeline.errors import ConfigError, OwnershipError, scrub
from pipeline.index.commits import Commit, CommitKind, FileEntry
from pipeline.index.heartbeat import Beat, Heartbeat, Watch, heartbeat_path, now_iso, read_heartbeat
from pipeline.index.log import LOG_FOLDER, Log, LostRaceError
from pipeline.index.process import certainly_gone, identity
from pipeline.index.state import IndexState
from pipeline.storage import Store

__all__ = ["QUIET_S", "RENEW_S", "Claim"]

QUIET_S = 60.0
RENEW_S = 10.0
"""Six chances to renew before a live owner could be taken for a dead one."""

_log = logging.getLogger(__name__)


class Claim:
    """The right of run `run_id` to commit. A context manager: leaving it releases what is still owned."""

    def __init__(self, store: Store, claimed: Commit, state: IndexState, renew_s: float) -> None:
        self.store = store
        self.run_id = claimed.run_id
        self.fingerprint = claimed.fingerprint
        self.state = state
        """The index as it was when the claim was made."""
        self.lost = threading.Event()
        """Set once another run is seen to have taken over: nothing will be committed any more."""
        self._taken_over = ""
        """By which run, in words; whoever asks is told, not only the thread that found out."""
        self._log = Log(store)
        self._seq = claimed.seq
        self._lock = threading.Lock()
        self._ended = False
        self._heartbeat = Heartbeat(store, self.run_id, renew_s, self._look)

    @classmethod
    def acquire(
        cls,
        store: Store,
        run_id: str,
        *,
        fingerprint: str,
        quiet_s: float = QUIET_S,
        renew_s: float = RENEW_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Claim:
        """Claim the index in `store` for `run_id`, which must be new with every process start.

        Waits up to `quiet_s` for a foreign claim to show life. Raises OwnershipError if it does, ConfigError if
        the store overwrites where it should refuse.
        """
        _check_exclusive_create(store)
        log = Log(store)
        while True:
            state = log.state()
            foreign = state.claim
            if foreign and not _may_take_over(log, foreign, state.head_seq, quiet_s, renew_s, clock, sleep):
                continue  # its claim ended while we watched: look again at who owns the index now
            claimed = Commit(
                seq=state.head_seq + 1,
                run_id=run_id,
                kind=CommitKind.CLAIM,
                fingerprint=fingerprint,
                created_at=now_iso(),
                info={"process": identity()},
            )
            try:
                log.append(claimed)
            except LostRaceError:
                continue
            if log.head() != claimed.seq:
                continue  # others went on while this put was on its way, and its number had been collected: see `log`
            claim = cls(store, claimed, state, renew_s)
            claim._heartbeat.start()
            if foreign:
                store.delete(heartbeat_path(foreign.run_id))
            return claim

    def commit(
        self,
        kind: CommitKind,
        *,
        added: Sequence[FileEntry] = (),
        removed: Sequence[str] = (),
        live: Sequence[FileEntry] = (),
        info: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Append a commit of this run and return it. A snapshot or a release ends the claim.

        Raises OwnershipError if another run has claimed the index since.
        """
        with self._lock:
            self._check_open()
            while True:
                commit = Commit(
                    seq=self._seq + 1,
                    run_id=self.run_id,
                    kind=CommitKind(kind),
                    fingerprint=self.fingerprint,
                    created_at=now_iso(),
                    added=tuple(added),
                    removed=tuple(removed),
                    live=tuple(live),
                    info=dict(info or {}),
                )
                try:
                    self._log.append(commit)
                except LostRaceError:
                    self._catch_up()
                    continue
                self._seq = commit.seq
                self._ended = commit.kind in (CommitKind.SNAPSHOT, CommitKind.RELEASE)
                break
        if self._ended:
            self._heartbeat.stop()
        return commit

    def recheck(self) -> None:
        """Raise OwnershipError unless the log, read now, still shows this run as the owner (before a delete)."""
        with self._lock:
            self._check_open()
            self._catch_up()

    def release(self) -> None:
        """End the claim without changing the index; nothing happens if it has ended."""
        if not self._ended:
            self.commit(CommitKind.RELEASE)

    @property
    def ended(self) -> bool:
        """Whether a snapshot or a release of this run has ended the claim."""
        return self._ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except Exception as failure:  # noqa: BLE001 - botocore's errors are no OSError
            # The block's own outcome counts; an index that could not be released is taken over by the next run.
            _log.warning("run %s could not release its claim: %s", self.run_id, failure)
        finally:
            self._heartbeat.stop()

    def _check_open(self) -> None:
        if self._ended:
            raise OwnershipError(f"run {self.run_id} has ended its claim on {self.store.root}")
        if self.lost.is_set():
            raise OwnershipError(self._taken_over)

    def _catch_up(self) -> None:
        for commit in self._log.since(self._seq):
            if commit.run_id != self.run_id:
                self._taken_over = (
                    f"run {commit.run_id} has taken over {self.store.root} (commit {commit.seq}); this run stops"
                )
                self.lost.set()
                raise OwnershipError(self._taken_over)
            self._seq = commit.seq

    def _look(self) -> None:
        with self._lock:
            if self._ended or self.lost.is_set():
                return
            try:
                self._catch_up()
            except OwnershipError as error:
                _log.warning("%s", error)


def _may_take_over(
    log: Log,
    foreign: Commit,
    head_seq: int,
    quiet_s: float,
    renew_s: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> bool:
    """True: the owner is dead or silent. False: its claim has ended meanwhile. OwnershipError: it lives."""
    watch = Watch(_sign(log, foreign), clock(), quiet_s)
    while not certainly_gone(foreign.info.get("process", {})):
        sleep(min(renew_s, quiet_s) / 2)  # two looks a renewal: the verdict comes within one
        asked_at_s = clock()
        if log.head() != head_seq and not _still_claimed_by(log, foreign):
            return False
        match watch.look(_sign(log, foreign), asked_at_s):
            case Beat.RENEWED:
                raise OwnershipError(_who(log.store, foreign))
            case Beat.QUIET:
                return True
            case Beat.WAITING:
                continue
    return True


def _still_claimed_by(log: Log, foreign: Commit) -> bool:
    claim = log.state().claim
    return claim is not None and claim.seq == foreign.seq


def _sign(log: Log, foreign: Commit) -> tuple[int, bytes]:
    return log.head(), read_heartbeat(log.store, foreign.run_id)


def _who(store: Store, foreign: Commit) -> str:
    process = foreign.info.get("process", {})
    return (
        f"{store.root} belongs to run {foreign.run_id} on host {process.get('host', 'unknown')}"
        f" (pid {process.get('pid', 'unknown')}) since {foreign.created_at}, and that run is alive;"
        " wait for it to end or stop it"
    )


def _check_exclusive_create(store: Store) -> None:
    # Some S3 look-alikes ignore If-None-Match and overwrite: two runs would both believe they own the index.
    probe = f"{LOG_FOLDER}/probe-{uuid.uuid4().hex}"
    try:
        first, second = (store.put_if_absent(probe, uuid.uuid4().bytes) for _ in range(2))
        store.delete(probe)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system raises its own
        why = scrub(f"{type(error).__name__}: {error}")
        raise ConfigError(
            f"output.path {store.root} cannot be written: {why}; check the path and the rights to it"
        ) from None
    if second or not first:
        raise ConfigError(
            f"{store.root}: this store ignores exclusive creates (If-None-Match), so two runs could overwrite"
            " each other; use a local folder, or an S3 store that honours conditional writes"
        )
