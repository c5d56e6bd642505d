"""Stop requests: signals and the time budget, and the exit code that goes with each."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest

from pipeline.errors import ExitCode, IncompleteError
from pipeline.stop import StopRequest, listen_for_stop


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.INCOMPLETE)]
)
def test_a_signal_asks_and_does_not_raise(number: signal.Signals, code: ExitCode) -> None:
    before = signal.getsignal(number)
    stop = StopRequest(patient=True)
    with listen_for_stop(stop):
        assert stop.reason is None
        os.kill(os.getpid(), number)
        assert stop.reason is not None
        assert stop.exit_code is code
    assert signal.getsignal(number) is before


def test_handlers_can_be_installed_again_over_another_librarys() -> None:
    stop = StopRequest(patient=True)
    with listen_for_stop(stop) as install:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        install()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.exit_code is ExitCode.INCOMPLETE
    assert stop.reason


def test_a_second_ctrl_c_stops_at_once() -> None:
    stop = StopRequest(patient=True)
    stop.request(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        stop.request(signal.SIGINT)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, IncompleteError)])
def test_outside_the_stream_a_signal_ends_the_run_where_it_stands(
    number: signal.Signals, error: type[BaseException]
) -> None:
    with listen_for_stop(StopRequest()), pytest.raises(error):
        os.kill(os.getpid(), number)


def test_the_time_budget() -> None:
    now = [0.0]
    stop = StopRequest(deadline=10.0, clock=lambda: now[0])
    assert stop.reason is None
    now[0] = 10.0
    assert stop.reason == "run.max_runtime_s is used up"
    assert stop.exit_code is ExitCode.INCOMPLETE


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, IncompleteError)])
def test_what_is_patient_ends_where_it_looks(number: signal.Signals, error: type[BaseException]) -> None:
    stop = StopRequest()
    with listen_for_stop(stop), stop.patiently():
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.signalled
        with pytest.raises(error):
            stop.check()
    assert not stop.patient


def test_a_time_budget_is_no_signal() -> None:
    stop = StopRequest(deadline=0.0)
    assert not stop.signalled
    with pytest.raises(IncompleteError, match="max_runtime_s is used up"):
        stop.check()


def test_what_does_not_end_after_sigterm_is_left() -> None:
    left: list[int] = []
    gone = threading.Event()

    def leave(status: int) -> None:
        left.append(status)
        gone.set()

    with listen_for_stop(StopRequest(patient=True), leave_s=0.05, leave=leave):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # some senders say it again
        assert gone.wait(30)
    assert left == [ExitCode.INCOMPLETE]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_in_time_is_not_left(number: signal.Signals) -> None:
    left: list[int] = []
    with listen_for_stop(StopRequest(patient=True), leave_s=1, leave=left.append):
        os.kill(os.getpid(), number)
        if number == signal.SIGINT:
            time.sleep(1.5)  # who pressed Ctrl-C can press it again
    time.sleep(1.5)
    assert left == []


LOGS_FOR_EVER = """
import logging
from pipeline.stop import StopRequest, listen_for_stop
logging.basicConfig(level=logging.INFO)
with listen_for_stop(StopRequest(patient=True), leave_s=0.2):
    while True:
        logging.getLogger("lakevec").info("x" * 5000)
"""


def test_a_process_whose_log_nobody_reads_leaves_all_the_same() -> None:
    with subprocess.Popen([sys.executable, "-c", LOGS_FOR_EVER], stderr=subprocess.PIPE) as process:
        assert process.stderr
        waiting, before = array.array("i", [0]), -1
        while not 0 < waiting[0] == before:  # the pipe takes no more: it waits, and holds the log's lock
            assert process.poll() is None
            before = waiting[0]
            time.sleep(0.2)
            fcntl.ioctl(process.stderr, termios.FIONREAD, waiting)
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == ExitCode.INCOMPLETE
        finally:
            process.kill()
