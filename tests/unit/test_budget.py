from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import budget
from pipeline.errors import RejectCode, RejectError
from pipeline.template import VisualSlot, compose
from tests.fixtures.tokenizer import prompt_tokenizer

IMAGE_LIMITS = {"factor": 32, "min_pixels": 4 * 1024, "max_pixels": 1800 * 1024}
TOTAL_PIXELS = 10 * 768 * 1024


@pytest.mark.parametrize(
    ("width_px", "height_px", "tokens"),
    [
        (16, 16, 4), (64, 64, 4), (224, 224, 49), (512, 512, 256), (1024, 1024, 1024), (1280, 720, 880),
        (1920, 1080, 1736), (1654, 2339, 1750), (4000, 6000, 1734),
    ],
)  # fmt: skip
def test_images_cost_what_the_contract_lists(width_px: int, height_px: int, tokens: int) -> None:
    height, width = budget.smart_resize(height_px, width_px, **IMAGE_LIMITS)
    grid = budget.grid_of(1, height, width)
    assert budget.grid_tokens(grid) == tokens
    assert budget.visual_tokens(grid) == tokens + 2


@pytest.mark.parametrize(
    ("width_px", "height_px", "n_frames", "tokens"),
    [
        (320, 240, 4, 280), (320, 240, 64, 4480), (640, 360, 20, 2200), (854, 480, 16, 3240), (854, 480, 64, 12960),
        (1280, 720, 4, 1440), (1280, 720, 64, 23040), (1920, 1080, 64, 23040),
    ],
)  # fmt: skip
def test_video_files_cost_what_the_contract_lists(width_px: int, height_px: int, n_frames: int, tokens: int) -> None:
    size = budget.video_file_size(height_px, width_px, n_frames)
    assert budget.grid_tokens(budget.grid_of(n_frames, *size)) == tokens


@pytest.mark.parametrize(
    ("width_px", "height_px", "n_frames", "grid"),
    [
        (300, 180, 10, (5, 18, 30)),
        (64, 64, 64, (32, 24, 24)),
        (96, 64, 4, (2, 20, 28)),
        (1280, 720, 64, (32, 22, 40)),
    ],
)
def test_frame_lists_are_resized_twice(
    width_px: int, height_px: int, n_frames: int, grid: tuple[int, int, int]
) -> None:
    first = budget.frame_list_first_size(height_px, width_px)
    assert first[0] % 64 == first[1] % 64 == 0
    assert budget.grid_of(n_frames, *budget.frame_second_size(*first, n_frames, TOTAL_PIXELS)) == grid


@given(height_px=st.integers(1, 30_000), width_px=st.integers(1, 30_000), maximum=st.integers(4096, 4_000_000))
def test_a_size_is_whole_tokens_within_the_limit_or_refused(height_px: int, width_px: int, maximum: int) -> None:
    ratio = max(height_px, width_px) / min(height_px, width_px)
    try:
        size = budget.smart_resize(height_px, width_px, factor=32, min_pixels=4096, max_pixels=maximum)
    except RejectError:
        assert ratio > 200 or 32 * 32 * ratio > maximum / 2
    else:
        assert size[0] % 32 == size[1] % 32 == 0
        # Raised to the minimum, each side is rounded up: (a + 32)(b + 32) with ab = 4096 and a/b up to 200.
        assert 0 < size[0] * size[1] <= max(maximum, 34_224)


def test_halves_round_to_even() -> None:
    assert budget.smart_resize(80, 112, factor=32, min_pixels=1, max_pixels=10**9) == (64, 128)


def test_ratio_200_is_accepted_and_more_is_refused() -> None:
    assert budget.smart_resize(10, 2000, **IMAGE_LIMITS) == (32, 1984)
    with pytest.raises(RejectError, match="ASPECT_RATIO"):
        budget.smart_resize(10, 2001, **IMAGE_LIMITS)


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RejectError, match="ASPECT_RATIO"):
        budget.smart_resize(*size, **IMAGE_LIMITS)


def test_a_thin_picture_that_shrinks_to_nothing_is_refused() -> None:
    with pytest.raises(RejectError, match="shrinks to 448x0"):
        budget.smart_resize(40, 8000, factor=32, min_pixels=1024, max_pixels=1024)


@given(st.floats(0, 99_999), st.integers(1, 4))
def test_video_cost_equals_its_tokens_in_a_prompt(time_s: float, patches: int) -> None:
    tokenizer = prompt_tokenizer()
    times = tuple(time_s + index for index in range(patches))
    bare = tokenizer.count(compose("x.", (), ""))
    with_video = tokenizer.count(compose("x.", [VisualSlot(6, times)], ""))
    assert with_video - bare == budget.visual_tokens((patches, 4, 6), times)


@given(st.integers(1, 800), st.floats(0, 5000), st.integers(1, 32), st.integers(-10, 9000))
def test_fitted_frames_fit_and_one_more_patch_would_not(
    patch_tokens: int, last_s: float, patches: int, room: int
) -> None:
    cost = budget.visual_tokens((1, 2, 2 * patch_tokens), [last_s])
    try:
        count = budget.fit_frames(patch_tokens, last_s, patches * 2, room)
    except RejectError:
        assert cost > room
    else:
        assert count % 2 == 0
        assert count // 2 * cost <= room
        assert count == patches * 2 or (count // 2 + 1) * cost > room


def test_refusals_say_why() -> None:
    with pytest.raises(RejectError) as error:
        budget.fit_frames(100, 0.0, 4, 107)
    assert error.value.code is RejectCode.OVER_LENGTH
