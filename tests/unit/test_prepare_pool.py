"""Preparation beside the model: an item that kills its process takes no other with it."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import FetchConfig, InputsConfig
from pipeline.errors import ConfigError, RejectCode
from pipeline.official import OfficialItem, OfficialMedia
from pipeline.policy import FetchPolicy
from pipeline.prepare_pool import ITEM, PreparePool, embed_makers
from pipeline.types import MediaKind, Prepared, Reject
from tests.fixtures.tiny_model import tiny_model


class Deadly(bytes):
    """Bytes that kill the process which unpickles them: a decoder that crashes on hostile media."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _die_unless, (os.getpid(),)


def _die_unless(parent: int) -> bytes:
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return b""


def test_an_item_that_kills_its_process_is_rejected_and_no_other() -> None:
    pool = PreparePool(partial(embed_makers, tiny_model(), InputsConfig()), FetchPolicy.of(FetchConfig()))
    text = OfficialItem(("hi",), (), None, None, None)
    deadly = OfficialItem((), (OfficialMedia(MediaKind.IMAGE, (Deadly(b"x"),)),), None, None, None)
    try:
        results = pool.prepare([(ITEM, text), (ITEM, deadly), (ITEM, text)])
        again = pool.prepare([(ITEM, text)])
    finally:
        pool.close()
    assert [type(one) for one in results] == [Prepared, Reject, Prepared]
    assert isinstance(results[1], Reject)
    assert (results[1].id, results[1].code) == ("1", RejectCode.WORKER_CRASHED)
    assert isinstance(again[0], Prepared)


def test_a_tokenizer_that_is_not_the_embedders_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    pool = PreparePool(partial(embed_makers, tmp_path, InputsConfig()), FetchPolicy.of(FetchConfig()))
    try:
        with pytest.raises(ConfigError, match="is no tokenizer"):
            pool.check().result()
    finally:
        pool.close()
