from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RejectCode, RejectError
from pipeline.sampling import frame_count, list_sample, patch_times, sample_video


def constant(n_total: int, fps: float) -> np.ndarray:
    return np.arange(n_total) / fps


def test_a_constant_rate_clip_is_sampled_as_the_reference_does() -> None:
    sample = sample_video(constant(300, 25), 25.0, 1.0, 64)
    assert sample.indices.tolist() == [0, 27, 54, 82, 109, 136, 163, 190, 217, 245, 272, 299]
    assert sample.timestamps_s.tolist() == [index / 25 for index in sample.indices]


@pytest.mark.parametrize(
    ("n_total", "fps", "max_frames", "count"),
    [(3, 1, 64, 2), (4, 1, 64, 4), (300, 1, 64, 12), (300, 2, 6, 6), (300, 2, 7, 6), (3000, 1, 64, 64),
     (10, 100, 64, 10), (11, 100, 64, 10), (2, 1, 64, 2), (325, 1, 64, 12), (300, -1, 64, 4), (300, math.inf, 64, 64)],
)  # fmt: skip
def test_frame_counts(n_total: int, fps: float, max_frames: int, count: int) -> None:
    assert frame_count(n_total, 25.0, fps, max_frames) == count


@pytest.mark.parametrize(("n_total", "fps", "max_frames"), [(1, 1.0, 64), (300, 1.0, 1), (300, math.nan, 64)])
def test_fewer_than_two_frames_are_refused(n_total: int, fps: float, max_frames: int) -> None:
    with pytest.raises(RejectError) as error:
        sample_video(constant(n_total, 25), 25.0, fps, max_frames)
    assert error.value.code is RejectCode.TOO_FEW_FRAMES


def test_container_rounding_of_times_changes_nothing() -> None:
    exact = constant(240, 30000 / 1001)
    rounded = np.round(exact, 3)
    same, other = (sample_video(times, 30000 / 1001, 1.0, 64) for times in (exact, rounded))
    assert same.indices.tolist() == other.indices.tolist()
    assert same.timestamps_s.tolist() == other.timestamps_s.tolist()


def test_a_variable_rate_clip_is_sampled_evenly_in_time() -> None:
    # 100 frames in the first second, then one a second until 9 s: index arithmetic would take the first second only.
    times = np.concatenate([np.arange(100) / 100, np.arange(1, 10)])
    sample = sample_video(times, 12.0, 1.0, 64)
    gaps = np.diff(sample.timestamps_s)
    assert len(sample.indices) == 8
    assert sample.timestamps_s.tolist() == times[sample.indices].tolist()
    assert gaps.min() > 0.9
    assert gaps.max() < 2.1


@pytest.mark.parametrize("lie", [1.0, 50.0, 1000.0])
def test_a_lying_frame_rate_does_not_move_frames_or_stamps(lie: float) -> None:
    # 10 s at 25 a second, whatever the header says.
    sample = sample_video(constant(250, 25), lie, 1.0, 64)
    assert len(sample.indices) == 10
    assert sample.timestamps_s[-1] == pytest.approx(9.96)
    assert np.abs(sample.timestamps_s - np.linspace(0, 9.96, 10)).max() <= 0.02


def test_times_that_do_not_rise_fall_back_to_the_declared_rate() -> None:
    sample = sample_video(np.zeros(100), 10.0, 1.0, 64)
    assert sample.indices.tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert sample.timestamps_s[-1] == pytest.approx(9.9)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_without_times_and_rate_the_video_is_refused(rate: float) -> None:
    with pytest.raises(RejectError) as error:
        sample_video(np.zeros(100), rate, 1.0, 64)
    assert error.value.code is RejectCode.VIDEO_UNREADABLE


def test_real_times_serve_where_the_rate_is_missing() -> None:
    assert len(sample_video(constant(250, 25), 0.0, 1.0, 64).indices) == 10


@given(
    st.lists(st.floats(0.001, 5), min_size=1, max_size=300),
    st.floats(0.1, 120),
    st.floats(0.1, 60),
    st.integers(2, 64),
)
def test_any_clip_gives_an_even_rising_choice_with_real_times(
    gaps_s: list[float], avg_fps: float, fps: float, max_frames: int
) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps_s)])
    sample = sample_video(times, avg_fps, fps, max_frames)
    count = len(sample.indices)
    assert count % 2 == 0
    assert 2 <= count <= min(max_frames, len(times))
    assert (np.diff(sample.indices) >= 0).all()
    assert sample.indices[0] == 0
    assert sample.indices[-1] == len(times) - 1
    half_frame_s = 0.5 / avg_fps + 1e-9
    assert (np.abs(sample.timestamps_s - times[sample.indices]) <= half_frame_s).all()


def test_short_lists_keep_all_frames_and_repeat_the_last_to_an_even_count() -> None:
    assert list_sample(9, 64).indices.tolist() == [*range(9), 8]
    assert list_sample(1, 64).indices.tolist() == [0, 0]
    assert list_sample(64, 64).indices.tolist() == list(range(64))


def test_long_lists_are_thinned_and_stamped_at_two_frames_a_second() -> None:
    sample = list_sample(70, 64)
    assert sample.indices.tolist() == np.linspace(0, 69, 64, dtype=int).tolist()
    assert sample.timestamps_s.tolist() == [index / 2 for index in range(64)]


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(RejectError, match="TOO_FEW_FRAMES"):
        list_sample(0, 64)


def test_a_patch_stands_at_the_mean_of_its_two_frames() -> None:
    assert patch_times(np.array([0.0, 0.5, 1.0, 1.5])) == (0.25, 1.25)
