"""What is said to people holds no secret, steers no terminal, and is not said a million times."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.redaction import HIDDEN, remember_options
from pipeline.speech import PER_MINUTE, RedactingFormatter, Sampled, plain, say


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def said() -> tuple[logging.Logger, io.StringIO, Clock]:
    """A logger, what it has written, and its clock."""
    stream, clock = io.StringIO(), Clock()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    handler.addFilter(Sampled(clock))
    logger = logging.Logger("bombed")
    logger.addHandler(handler)
    return logger, stream, clock


def test_many_rejects_make_a_small_log(said: tuple[logging.Logger, io.StringIO, Clock]) -> None:
    logger, stream, clock = said
    for number in range(100_000):
        clock.now_s = number / 1000  # a hundred seconds
        logger.warning("item %s was rejected: %s", number, "FETCH_FAILED")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2 * PER_MINUTE
    assert lines[PER_MINUTE].endswith(f"({60_000 - PER_MINUTE} more like it were left out)")


def test_texts_of_which_no_two_are_alike_are_bounded_too(said: tuple[logging.Logger, io.StringIO, Clock]) -> None:
    logger, stream, _ = said
    for number in range(20_000):
        logger.warning(f"item {number} was rejected")
    assert len(stream.getvalue().splitlines()) < 1100


def test_one_kind_leaves_room_for_another(said: tuple[logging.Logger, io.StringIO, Clock]) -> None:
    logger, stream, _ = said
    for number in range(100):
        logger.warning("often %d", number)
    logger.warning("once")
    assert stream.getvalue().splitlines()[-1] == "once"


def test_a_traceback_is_redacted(said: tuple[logging.Logger, io.StringIO, Clock]) -> None:
    logger, stream, _ = said
    remember_options({"s3": {"secret": "jn7SpeechSecretA"}})
    try:
        raise RuntimeError("signed with " + "jn7Speech" + "SecretA")
    except RuntimeError:
        logger.exception("it failed")
    assert HIDDEN in stream.getvalue()
    assert "jn7SpeechSecretA" not in stream.getvalue()


@given(st.text())
def test_nothing_steers_the_terminal(text: str) -> None:
    shown = plain(text)
    assert not any((ord(char) < 32 and char not in "\t\n") or 127 <= ord(char) < 160 for char in shown)
    assert plain(shown) == shown
    if text.isprintable():
        assert shown == text


def test_a_hostile_id_is_spelt_out(capsys: pytest.CaptureFixture[str]) -> None:
    say("item \x1b]0;owned\x07\x1b[2J\u202egpj.exe\r is <b>fine</b>")
    assert capsys.readouterr().out == "item \\x1b]0;owned\\x07\\x1b[2J\\u202egpj.exe\\r is <b>fine</b>\n"
