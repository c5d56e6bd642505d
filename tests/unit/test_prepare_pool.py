"""Preparation beside the model: in order, each reject in its place, and what a process by itself would give."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import FetchConfig, InputsConfig
from pipeline.errors import ConfigError, RejectCode
from pipeline.official import OfficialItem, OfficialMedia
from pipeline.policy import FetchPolicy
from pipeline.prepare import Preparer
from pipeline.prepare_pool import ITEM, PreparePool, embed_makers
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Prepared, Reject
from tests.fixtures.media import encode_image, photo
from tests.fixtures.tiny_model import tiny_model


def pool_of(folder: Path) -> PreparePool[Prepared]:
    inputs = InputsConfig()
    return PreparePool(partial(embed_makers, folder, inputs), inputs, FetchPolicy.of(FetchConfig()))


def test_items_come_back_in_order_and_each_reject_has_its_place() -> None:
    good, broken = encode_image(photo(64, 64, 1), "PNG"), encode_image(photo(64, 64, 1), "PNG")[:80]
    items = [
        OfficialItem(("hi",), (), None, None, None),
        *(OfficialItem((), (OfficialMedia(MediaKind.IMAGE, (data,)),), None, None, None) for data in (good, broken)),
        OfficialItem((), (OfficialMedia(MediaKind.IMAGE, ("/no/such/file.png",)),), None, None, None),
        *(OfficialItem((f"{n}",), (OfficialMedia(MediaKind.IMAGE, (good,)),), None, None, None) for n in range(20)),
    ]
    pool = pool_of(tiny_model())
    try:
        results = pool.prepare([(ITEM, item) for item in items])
        again = pool.prepare([(ITEM, items[1])])
    finally:
        pool.close()
    rejects = [(one.id, one.code) for one in results if isinstance(one, Reject)]
    assert rejects == [("2", RejectCode.IMAGE_UNREADABLE), ("3", RejectCode.URI_NOT_ALLOWED)]
    assert [one.id for one in results] == [str(n) for n in range(len(items))]
    here = Preparer(PromptTokenizer(tiny_model()), InputsConfig())
    alone = here.prepare(LoadedItem("1", (), (LoadedMedia(MediaKind.IMAGE, (good,)),)))
    assert isinstance(again[0], Prepared)
    assert np.array_equal(again[0].visuals[0].frames, alone.visuals[0].frames)
    assert again[0].content_hash == alone.content_hash


def test_a_tokenizer_that_is_not_the_embedders_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    pool = pool_of(tmp_path)
    try:
        with pytest.raises(ConfigError, match="is no tokenizer"):
            pool.check().result()
    finally:
        pool.close()
