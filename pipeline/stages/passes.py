"""The passes over the work list: the first with everything, then smaller ones with what died with its worker."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ray
from ray.data import exceptions as data_exceptions
from ray.exceptions import RayError

from pipeline.errors import LakevecError, scrub
from pipeline.index.claim import Claim
from pipeline.stages.chain import ReceiptStream, build_chain
from pipeline.stages.committer import Committer
from pipeline.stages.losses import Losses, explained, listen_for_losses, no_space
from pipeline.stages.meter import Reading
from pipeline.stages.no_progress import no_progress
from pipeline.stages.reconcile import CRASH_DETAIL, PASS_BLOCKS
from pipeline.stages.work import Work
from pipeline.stages.worker_log import WorkerLogReader
from pipeline.stop import StopRequest

__all__ = ["Passes"]

POLL_S = 0.5
METER_EVERY_S = 2.0

DRAIN_S = 20.0
"""What a stopping run waits for windows in flight: SIGTERM is followed by SIGKILL after 30 s almost everywhere."""

MIN_ERRORED_BLOCKS = 16
ERRORED_BLOCK_FRACTION = 0.1
"""Blocks and windows of the first pass that may be lost: more than this is no bad file but a bad run. A bad file that
is found out loses none (`under_way`); ten that are not, in a window each, stay below."""

_NO_PROGRESS = tuple(filter(None, [getattr(data_exceptions, "ExecutionTimeoutError", None)]))
"""It is no RayError. A Ray that does not have it ends no run for want of progress."""

_log = logging.getLogger("lakevec")


@dataclass(slots=True)
class Passes:
    """One run's passes. `show(reading)` is called about twice a second with what the stages have done."""

    work: Work
    claim: Claim
    committer: Committer
    stop: StopRequest
    block_items: int
    show: Callable[[Reading], None]
    worker_log: WorkerLogReader = field(default_factory=WorkerLogReader)

    def run(self) -> bool:
        """Bring every item of the work list to an outcome. False if the run was stopped first.

        Raises OwnershipError if another run has taken over, LakevecError if a stage failed for good.
        """
        with self.stop.patiently(), listen_for_losses() as losses:
            return self._run(losses)

    def _run(self, losses: Losses) -> bool:
        paths = self.work.paths
        for number, block_items in enumerate(PASS_BLOCKS):
            if not self._stream(paths, block_items or self.block_items, first=number == 0):
                return False
            lost = self.work.lost(paths, self.committer.committed)
            if lost is None:
                return True
            if losses.full:
                raise no_space(losses.full)
            _log.warning("%d items were lost with their workers (%s)", lost.items, losses.commonest)
            if number == 1 and losses.raised and not self.committer.committed and lost.items > PASS_BLOCKS[1]:
                raise LakevecError(
                    f"no item at all came through, neither together nor in small groups: {losses.commonest}"
                )
            if number + 1 < len(PASS_BLOCKS):
                paths = self.work.again(lost, number + 1, PASS_BLOCKS[number + 1])
        assert lost is not None, "the last pass ended with losses"
        self.committer.take(self.work.give_up(lost, scrub(f"{CRASH_DETAIL}: {losses.commonest}")))
        self.committer.flush()
        return True

    def _stream(self, paths: Sequence[str], block_items: int, *, first: bool) -> bool:
        # Later passes hold only what already died once: there every block may.
        allowed = max(MIN_ERRORED_BLOCKS, int(self.work.to_do / block_items * ERRORED_BLOCK_FRACTION))
        dataset = build_chain(self.work.chain, self.claim.store, paths, block_items, allowed if first else -1)
        try:
            return self._pull(ReceiptStream(dataset))
        except _NO_PROGRESS as error:
            raise no_progress(self.work.chain.no_progress_s, str(error)) from error
        except RayError as error:
            raise explained(error) from error
        finally:
            self.committer.flush()
            # The next pass needs these actors' CPUs and GPUs, which their last handle holds.
            del dataset
            gc.collect()

    def _pull(self, stream: ReceiptStream) -> bool:
        try:
            return self._take_all(stream)
        finally:
            # What ended the pass may be just what a worker had to say last.
            self._read_meter(Reading())

    def _take_all(self, stream: ReceiptStream) -> bool:
        draining_since: float | None = None
        metered = 0.0
        reading = Reading()
        while (receipts := stream.poll(POLL_S)) is not None:
            self.committer.take(receipts)
            if self.claim.lost.is_set():
                self.claim.recheck()
            now = time.monotonic()
            if now - metered >= METER_EVERY_S:
                metered, reading = now, self._read_meter(reading)
            self.show(reading)
            if self.stop.reason and draining_since is None:
                draining_since = now
                _log.warning("%s: finishing what is under way, at most %.0f s", self.stop.reason, DRAIN_S)
                self.work.chain.meter.drain.remote()
            if draining_since is not None and now - draining_since > DRAIN_S:
                return False
        return draining_since is None

    def _read_meter(self, last: Reading) -> Reading:
        try:
            reading: Reading = ray.get(self.work.chain.meter.read.remote(), timeout=POLL_S)
        except RayError:
            return last
        self.worker_log.show(reading.said)
        return reading
