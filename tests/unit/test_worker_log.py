"""What a worker logs reaches the driver's log, each text once."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pipeline.stages.meter import MAX_MESSAGES, Meter
from pipeline.stages.worker_log import Message, WorkerLogReader, send_log_to
from tests.fixtures.said import said_at


class Remote:
    """A meter as its callers see it, without Ray."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.say = self

    def remote(self, message: Message) -> None:
        self.meter.say(message)


@pytest.fixture
def worker() -> Iterator[Remote]:
    logger, remote = logging.getLogger("lakevec"), Remote()
    before = logger.level, list(logger.handlers)
    send_log_to(remote)
    yield remote
    logger.setLevel(before[0])
    logger.handlers = before[1]


def test_messages_are_written_once_and_in_order(worker: Remote, caplog: pytest.LogCaptureFixture) -> None:
    log, reader = logging.getLogger("lakevec"), WorkerLogReader()
    log.info("encoder on %s", "cuda:0")
    log.warning("100% of the budget")
    log.info("encoder on %s", "cuda:0")
    log.debug("too small to tell")
    said = worker.meter.read().said
    assert said == ((logging.INFO, "encoder on cuda:0"), (logging.WARNING, "100% of the budget"))
    logging.getLogger("lakevec").handlers.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "lakevec"):
        reader.show(said[:1])
        reader.show(said)
        reader.show(())  # a meter that restarted knows nothing
        reader.show(said)
        later = (logging.INFO, "said to a meter that restarted")
        reader.show((later,))
    assert said_at(caplog) == [*said, later]


def test_a_meter_keeps_so_many_messages(worker: Remote) -> None:
    for number in range(MAX_MESSAGES + 5):
        logging.getLogger("lakevec").info(f"message {number}")
    assert len(worker.meter.read().said) == MAX_MESSAGES
