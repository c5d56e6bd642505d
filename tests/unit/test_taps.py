"""Weights and exact values equal torch's to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode.taps import GROUP_TAPS, axis_taps, exact_frame, exact_values
from tests.fixtures.media import Picture, photo

SIZES = [(333, 517, 320, 512), (1080, 1920, 352, 640), (500, 300, 37, 20), (60, 44, 100, 99), (64, 64, 64, 32)]


def _torch(frame: Picture, height_px: int, width_px: int, *, channels_last: bool) -> np.ndarray:
    planes = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    planes = planes if channels_last else planes.contiguous()
    resized = torch.nn.functional.interpolate(planes, (height_px, width_px), mode="bicubic", antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_whole_frame_equals_torch_before_rounding(size: tuple[int, int, int, int], channels_last: bool) -> None:
    frame = photo(size[1], size[0], 3)
    ours = exact_frame(frame, axis_taps(size[0], size[2]), axis_taps(size[1], size[3]))
    assert ours.dtype == np.float32
    assert np.array_equal(ours, _torch(frame, size[2], size[3], channels_last=channels_last))


@pytest.mark.parametrize("size", SIZES)
def test_single_values_are_those_of_the_whole_frame(size: tuple[int, int, int, int]) -> None:
    frame, tall, wide = photo(size[1], size[0], 4), axis_taps(size[0], size[2]), axis_taps(size[1], size[3])
    rng = np.random.default_rng(0)
    # More than one chunk of them, in no order.
    rows, columns, channels = (rng.integers(0, end, 30_000) for end in (size[2], size[3], 3))
    ours = exact_values(frame, tall, wide, (rows, columns, channels))
    assert np.array_equal(ours, exact_frame(frame, tall, wide)[rows, columns, channels])


def test_no_values_are_none() -> None:
    nowhere = np.zeros(0, np.int64)
    axis = axis_taps(9, 5)
    assert exact_values(photo(9, 9, 1), axis, axis, (nowhere, nowhere, nowhere)).shape == (0,)


@settings(max_examples=60)
@given(st.integers(1, 700), st.integers(2, 400))
def test_weights_are_torch_s(in_px: int, out_px: int) -> None:
    axis = axis_taps(in_px, out_px)
    # Each line lights one pixel, so what comes out of it is that pixel's weight everywhere.
    lines = torch.eye(in_px)[None, None]
    want = torch.nn.functional.interpolate(lines, (in_px, out_px), mode="bicubic", antialias=True)[0, 0].numpy()
    ours = np.zeros((in_px + axis.weights.shape[1], out_px), np.float32)
    taps = axis.first[:, None] + np.arange(axis.weights.shape[1])
    ours[taps, np.arange(out_px)[:, None]] = axis.weights
    assert np.array_equal(ours[:in_px], want)


@given(st.integers(1, 5000), st.integers(1, 2000))
@settings(max_examples=60)
def test_weights_add_up_and_stay_inside(in_px: int, out_px: int) -> None:
    axis = axis_taps(in_px, out_px)
    assert np.allclose(axis.weights.sum(axis=1), 1, atol=1e-5)
    used = np.where(axis.weights != 0, axis.first[:, None] + np.arange(axis.weights.shape[1]), 0)
    assert used.min() >= 0
    assert used.max() < in_px
    assert 0.9999 < axis.gain < 2
    places = np.array([axis.places(tap) for tap in range(axis.weights.shape[1])])
    assert 0 <= places.min() <= places.max() < in_px


def test_an_axis_of_the_same_size_is_read_as_it_is() -> None:
    axis = axis_taps(7, 7)
    assert axis.first.tolist() == list(range(7))
    assert axis.weights.tolist() == [[1.0]] * 7


def test_whole_groups_after_the_first_tap_are_not_fused() -> None:
    axis = axis_taps(90, 30)
    middle = axis.fused[15].tolist()
    assert middle == [False] * (1 + 2 * GROUP_TAPS) + [True] * (len(middle) - 1 - 2 * GROUP_TAPS)
    assert not axis_taps(30, 90).fused[:, 0].any()
    assert axis_taps(30, 90).fused[:, 1:].all()
