"""Why blocks were dropped is heard from Ray Data's log, down to the root cause, without addresses."""

from __future__ import annotations

import errno
import logging

from pipeline.errors import ConfigError, ExitCode, ManifestError
from pipeline.stages.losses import explained, listen_for_losses, root_cause

LOGGER = logging.getLogger("ray.data._internal.execution.streaming_executor_state")


def wrapped(text: str) -> BaseException:
    outer = RuntimeError("a task failed")
    outer.__cause__ = ValueError(text)
    return outer


def test_the_commonest_root_cause() -> None:
    with listen_for_losses() as losses:
        assert losses.commonest is None
        for text in ("rare", "common <X object at 0x7f00aa>", "common <X object at 0x7f00bb>"):
            error = wrapped(text)
            LOGGER.error("An exception was raised", exc_info=error)
        LOGGER.error("no exception in this one")
        assert losses.commonest == "ValueError: common <X object >"
    LOGGER.error("after", exc_info=wrapped("later"))
    assert losses.commonest == "ValueError: common <X object >"


def test_an_actor_that_died_in_its_constructor_is_explained_by_its_text() -> None:
    text = "The actor died in its creation task\n  File x\npipeline.errors.ConfigError: no GPU\nmend it"
    found = explained(RuntimeError(text))
    assert isinstance(found, ConfigError)
    assert str(found) == "no GPU\nmend it"
    assert "it blew up" in str(explained(RuntimeError("Traceback\n  File x\nOSError: it blew up")))
    assert explained(wrapped_by(ManifestError("as it is"))).exit_code == 2


def test_a_full_disk_is_no_fault_of_items() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/out/x")
    assert explained(wrapped_by(full)).exit_code == ExitCode.INCOMPLETE
    assert explained(wrapped_by(OSError(errno.EIO, "Input/output error"))).exit_code == ExitCode.FAILED
    told = (
        "ray::map()\n  File x\nOSError: [Errno 28] No space left on device\n\nThe above was the cause of\nX: UDF failed"
    )
    assert explained(RuntimeError(told)).exit_code == ExitCode.INCOMPLETE
    assert explained(RuntimeError(told.replace("28", "5"))).exit_code == ExitCode.FAILED
    with listen_for_losses() as losses:
        LOGGER.error("An exception was raised", exc_info=wrapped_by(ValueError("x")))
        assert not losses.full
        LOGGER.error("An exception was raised", exc_info=wrapped_by(full))
        assert losses.full


def wrapped_by(inner: BaseException) -> BaseException:
    outer = RuntimeError("a task failed")
    outer.__cause__ = inner
    return outer


def test_root_cause_follows_both_kinds_of_wrapping() -> None:
    inner = KeyError("x")

    class Task(Exception):
        cause = inner

    outer = RuntimeError("outer")
    outer.__cause__ = Task()
    assert root_cause(outer) is inner
