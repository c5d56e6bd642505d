"""The float32 resize equals torch's antialiased bicubic, the operator behind the reference's second resize."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode import resize
from pipeline.decode.resize import resize_frame, resize_frames
from pipeline.decode.taps import axis_taps, exact_frame
from tests.fixtures.golden_cases import formula_image
from tests.fixtures.media import Picture, clip, photo, screenshot

SIZES = [
    (1080, 1920, 352, 640), (720, 1280, 704, 1280), (240, 320, 288, 384), (1000, 600, 500, 300), (33, 777, 64, 800),
    (480, 854, 480, 832), (100, 100, 200, 200), (64, 64, 17, 5), (7, 9, 320, 320), (1, 1, 32, 32), (40, 3, 40, 64),
    (2160, 3840, 64, 96), (240, 320, 320, 448), (60, 640, 1, 32),
]  # fmt: skip

PATTERNS = ("noise", "two levels", "checkerboard", "black and white", "ramp", "steep ramps", "formula", "stripes")


def _pattern(name: str, height: int, width: int, seed: int) -> Picture:
    """uint8[h, w, 3]; all but noise have whole regions whose resized values lie half-way between two levels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    if name == "noise":
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if name == "two levels":
        return (rng.integers(0, 2, (height, width, 3)) + seed % 255).astype(np.uint8)
    if name == "formula":
        return formula_image(width, height, seed % 100)
    plane = {
        "checkerboard": (x + y) % 2 + seed % 255,
        "black and white": (x + y) % 2 * 255,
        "ramp": x * 255 // max(width - 1, 1),
        "steep ramps": 3 * x + 5 * y,
        "stripes": y % 2 * 3 + seed % 253,
    }[name]
    return np.repeat((plane % 256).astype(np.uint8)[..., np.newaxis], 3, axis=2)


def _torch(frames: Picture, height_px: int, width_px: int) -> Picture:
    batch = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).contiguous().float()
    resized = torch.nn.functional.interpolate(batch, size=(height_px, width_px), mode="bicubic", antialias=True)
    return np.asarray(resized.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(), np.uint8)


def _assert_equal(frames: Picture, height_px: int, width_px: int) -> None:
    ours = resize_frames(frames, height_px, width_px)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, _torch(frames, height_px, width_px))


@pytest.mark.parametrize(("height", "width", "height_px", "width_px"), SIZES)
def test_photos_equal_torch(height: int, width: int, height_px: int, width_px: int) -> None:
    _assert_equal(photo(width, height, 5)[None], height_px, width_px)


def test_text_equals_torch() -> None:
    _assert_equal(screenshot(640, 480, "The quick brown fox")[None], 352, 480)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("size", [(240, 320, 320, 448), (720, 1280, 352, 640), (96, 128, 192, 256), (300, 200, 96, 64)])
def test_pictures_full_of_ties_equal_torch(name: str, size: tuple[int, int, int, int]) -> None:
    _assert_equal(_pattern(name, size[0], size[1], 100)[None], *size[2:])


# Where one column is left torch repeats its first row (a fault of its own); no frame is ever under 32 px wide.
@settings(max_examples=200)
@given(
    st.sampled_from(PATTERNS),
    st.tuples(st.integers(1, 160), st.integers(1, 160), st.integers(1, 160), st.integers(2, 160)),
    st.integers(0, 2**32 - 1),
)
def test_any_picture_of_any_size_equals_torch(name: str, size: tuple[int, int, int, int], seed: int) -> None:
    _assert_equal(_pattern(name, size[0], size[1], seed)[None], *size[2:])


@settings(max_examples=100)
@given(st.sampled_from(PATTERNS), st.tuples(*[st.integers(1, 200)] * 4), st.integers(0, 2**32 - 1))
def test_blas_stays_within_the_tolerance(name: str, size: tuple[int, int, int, int], seed: int) -> None:
    frame = _pattern(name, size[0], size[1], seed)
    tall, wide = axis_taps(size[0], size[2]), axis_taps(size[1], size[3])
    apart = np.abs(resize._by_blas(frame, tall, wide).swapaxes(0, 1) - exact_frame(frame, tall, wide))
    # 0.27 is the most ever seen; the rest of the bound is for the BLAS of other machines.
    assert apart.max() <= resize._tolerance(tall, wide) / 2


def test_without_the_second_look_ties_fall_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize, "_tolerance", lambda *_: -1.0)
    frame = formula_image(320, 192, 1)[None]
    assert not np.array_equal(resize_frames(frame, 288, 480), _torch(frame, 288, 480))


@pytest.mark.parametrize("name", ["noise", "formula", "two levels"])
@pytest.mark.parametrize("size", [(90, 150, 64, 96), (64, 96, 90, 150), (64, 96, 64, 128), (96, 64, 128, 64)])
def test_ties_one_by_one_and_all_at_once_are_the_same(
    name: str, size: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = _pattern(name, size[0], size[1], 7)
    monkeypatch.setattr(resize, "_break_even_values", lambda *_: -1)
    at_once = resize_frame(frame, *size[2:])
    monkeypatch.setattr(resize, "_break_even_values", lambda *_: np.inf)
    assert np.array_equal(resize_frame(frame, *size[2:]), at_once)


def _peak_bytes(frame: Picture) -> int:
    tracemalloc.start()
    resize_frame(frame, 352, 640)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_picture_of_nothing_but_ties_needs_little_more_memory_than_any_other() -> None:
    plain, ties = np.full((1080, 1920, 3), 9, np.uint8), _pattern("checkerboard", 1080, 1920, 9)
    resize_frame(plain, 352, 640)  # fills the caches of weights
    # 1080 lines of the width-resized picture in float32, twice, and its turned uint8 source.
    assert _peak_bytes(ties) <= max(_peak_bytes(plain), 2 * 1080 * 640 * 3 * 4 + ties.nbytes) + (12 << 20)


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_a_plain_picture_stays_plain(level: int) -> None:
    plain = np.full((1, 90, 121, 3), level, np.uint8)
    assert (resize_frames(plain, 64, 32) == level).all()
    assert (resize_frames(plain, 128, 256) == level).all()


def test_one_pixel_sides_interpolate_along_the_other() -> None:
    column = np.array([0, 200], np.uint8).reshape(1, 2, 1, 1).repeat(3, axis=3)
    expected = resize_frames(column.repeat(2, axis=2), 8, 2)[:, :, :1]
    assert np.array_equal(resize_frames(column, 8, 1), expected)


def test_edges_clamp_and_do_not_wrap() -> None:
    edge = np.zeros((1, 16, 16, 3), np.uint8)
    edge[:, :, 8:] = 255
    enlarged = resize_frames(edge, 64, 64)
    assert enlarged[0, :, :16].max() == 0
    assert enlarged[0, :, 48:].min() == 255


def test_the_same_size_is_the_same_array() -> None:
    frames = np.stack(clip(3, 64, 32, 1))
    assert resize_frames(frames, 32, 64) is frames
    assert resize_frame(frames[0], 32, 64).base is frames


def test_a_frame_alone_equals_itself_in_company() -> None:
    frames = np.stack(clip(5, 100, 60, 4))
    together = resize_frames(frames, 64, 96)
    assert all(np.array_equal(resize_frame(frame, 64, 96), row) for frame, row in zip(frames, together, strict=True))


def test_views_resize_as_copies_do() -> None:
    frame = photo(90, 60, 8)
    turned = np.rot90(frame)
    assert np.array_equal(resize_frame(turned, 64, 32), resize_frame(turned.copy(), 64, 32))
