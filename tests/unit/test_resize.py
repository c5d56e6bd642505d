"""The float32 resize equals torch's antialiased bicubic, the operator behind the reference's second resize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode.resize import axis_weights, resize_frame, resize_frames
from tests.fixtures.media import Picture, clip, photo, screenshot

SIZES = [
    (1080, 1920, 352, 640), (720, 1280, 704, 1280), (240, 320, 288, 384), (1000, 600, 500, 300), (33, 777, 64, 800),
    (480, 854, 480, 832), (100, 100, 200, 200), (64, 64, 17, 5), (7, 9, 320, 320), (1, 1, 32, 32), (40, 3, 40, 64),
]  # fmt: skip

PX = st.integers(2, 160)  # a one-pixel side makes torch read its memory layout wrongly and repeat one row


def _torch(frames: Picture, height_px: int, width_px: int) -> Picture:
    batch = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2).contiguous().float()
    resized = torch.nn.functional.interpolate(batch, size=(height_px, width_px), mode="bicubic", antialias=True)
    return np.asarray(resized.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy(), np.uint8)


def _assert_close(frames: Picture, height_px: int, width_px: int) -> None:
    ours = resize_frames(frames, height_px, width_px)
    assert ours.shape == (len(frames), height_px, width_px, 3)
    assert ours.dtype == np.uint8
    apart = np.abs(ours.astype(int) - _torch(frames, height_px, width_px))
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= max(1, apart.size // 1000)


@pytest.mark.parametrize(("height", "width", "height_px", "width_px"), SIZES)
def test_photos_equal_torch(height: int, width: int, height_px: int, width_px: int) -> None:
    _assert_close(photo(width, height, 5)[None], height_px, width_px)


def test_text_equals_torch() -> None:
    _assert_close(screenshot(640, 480, "The quick brown fox")[None], 352, 480)


@settings(max_examples=150, deadline=None)
@given(PX, PX, PX, PX, st.integers(0, 2**32 - 1))
def test_any_size_equals_torch(height: int, width: int, height_px: int, width_px: int, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    ours = resize_frames(noise, height_px, width_px).astype(int)
    # A small or simple ratio has exact halves, which fall either way: only the size of a step is promised.
    assert np.abs(ours - _torch(noise, height_px, width_px)).max() <= 1


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


@given(st.integers(1, 5000), st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_weights_add_up_and_stay_inside(in_px: int, out_px: int) -> None:
    first, weights = axis_weights(in_px, out_px)
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    used = np.where(weights != 0, first[:, None] + np.arange(weights.shape[1]), 0)
    assert used.min() >= 0
    assert used.max() < in_px
