"""The optional resizer stays within a level of Pillow, but for one value in a hundred thousand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import ImageConfig, InputsConfig
from pipeline.decode import fast_resize
from pipeline.decode.fast_resize import check_fast_resize, resize_fast
from pipeline.errors import ConfigError
from pipeline.prepare import Preparer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Prepared
from tests.fixtures.media import Picture, encode_image, photo, screenshot
from tests.fixtures.tokenizer import prompt_tokenizer

FAST = InputsConfig(image=ImageConfig(resize="fast"))
SIDE = st.integers(1, 160)


def _levels_off(picture: Picture, height_px: int, width_px: int) -> Picture:
    fast = resize_fast(picture, height_px, width_px)
    assert fast.dtype == np.uint8
    exact = np.asarray(Image.fromarray(picture).resize((width_px, height_px), Image.Resampling.BICUBIC))
    return np.abs(fast.astype(np.int16) - exact)


def _picture(height: int, width: int, hard: bool, seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (noise >> 7) * np.uint8(255) if hard else noise


@settings(max_examples=300)
@given(SIDE, SIDE, SIDE, SIDE, st.booleans(), st.integers(0, 2**32 - 1))
def test_no_value_is_off_by_more_than_two_levels(
    height: int, width: int, height_px: int, width_px: int, hard: bool, seed: int
) -> None:
    assert _levels_off(_picture(height, width, hard, seed), height_px, width_px).max() <= 2


@settings(max_examples=200)
@given(SIDE, SIDE, SIDE, st.booleans(), st.integers(0, 2**32 - 1))
def test_one_pass_is_never_off_by_more_than_one(length: int, other: int, length_px: int, hard: bool, seed: int) -> None:
    assert _levels_off(_picture(length, other, hard, seed), length_px, other).max() <= 1
    assert _levels_off(_picture(other, length, hard, seed), other, length_px).max() <= 1


# Wide, tall (where Pillow begins with the height), shrunk by far and enlarged.
@pytest.mark.parametrize(
    ("height", "width", "height_px", "width_px"),
    [(1080, 1920, 992, 1792), (900, 300, 576, 192), (1500, 2000, 288, 384), (200, 300, 448, 672)],
)
def test_pictures_are_off_by_one_level_here_and_there(height: int, width: int, height_px: int, width_px: int) -> None:
    for picture in (photo(width, height, 5), screenshot(width, height)):
        off = _levels_off(picture, height_px, width_px)
        assert (off > 0).mean() < 0.01
        assert (off > 1).mean() < 1e-5


def test_an_item_is_prepared_the_same_but_for_those_levels() -> None:
    blob = encode_image(photo(517, 333, 2), "JPEG")
    exact, fast = _prepared(InputsConfig(), blob), _prepared(FAST, blob)
    assert np.array_equal(exact.input_ids, fast.input_ids)
    off = np.abs(exact.visuals[0].frames.astype(int) - fast.visuals[0].frames)
    assert 0 < off.max() <= 2


def _prepared(inputs: InputsConfig, blob: bytes) -> Prepared:
    item = LoadedItem("a", (), (LoadedMedia(MediaKind.IMAGE, (blob,)), LoadedMedia(MediaKind.FRAMES, (blob, blob))))
    return Preparer(prompt_tokenizer(), inputs).prepare(item)


def test_without_its_extra_no_preparer_starts() -> None:
    fast_resize._library.cache_clear()
    try:
        # Not `patch.dict`, which would also forget every module that is imported meanwhile.
        with pytest.MonkeyPatch.context() as without:
            without.setitem(sys.modules, "cykooz_resizer", None)
            with pytest.raises(ConfigError, match=r"lakevec\[fast-resize\]"):
                Preparer(prompt_tokenizer(), FAST)
            Preparer(prompt_tokenizer(), InputsConfig())
    finally:
        fast_resize._library.cache_clear()
    check_fast_resize()
