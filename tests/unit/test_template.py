from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.template import (
    CONTROL_IDS,
    DEFAULT_INSTRUCTION,
    Control,
    Plain,
    VisualSlot,
    compose,
    in_prompt_order,
    resolve_instruction,
    user_text,
)
from pipeline.types import LoadedMedia, MediaKind

NAMES = {token_id: token for token, token_id in CONTROL_IDS.items()}


def written(pieces: tuple[Plain | Control, ...]) -> str:
    return "".join(piece.text if isinstance(piece, Plain) else NAMES[piece.token_id] * piece.count for piece in pieces)


def prompt(*visuals: VisualSlot, text: str = "t") -> str:
    whole = compose("Do.", visuals, text)
    return written(whole.before) + whole.head + whole.text + written(whole.after)


@pytest.mark.parametrize(
    ("row", "config", "resolved"),
    [
        (None, None, DEFAULT_INSTRUCTION),
        ("", None, DEFAULT_INSTRUCTION),
        (" \n\t", "Find it", "Find it."),
        ("  ", " ", DEFAULT_INSTRUCTION),
        ("Find it!", "other", "Find it!"),
        (" Find it ", None, "Find it."),
        ("检索图片", None, "检索图片."),
        ("检索图片。", None, "检索图片。"),
        ("cost in $", None, "cost in $."),
        ("smile 🙂", None, "smile 🙂."),
        ("(quoted)", None, "(quoted)"),
    ],
)
def test_instructions(row: str | None, config: str | None, resolved: str) -> None:
    assert resolve_instruction(row, config) == resolved


@given(st.text())
def test_a_resolved_instruction_ends_in_punctuation_and_stays_so(instruction: str) -> None:
    resolved = resolve_instruction(instruction, None)
    assert unicodedata.category(resolved[-1]).startswith("P")
    assert resolve_instruction(resolved, None) == resolved


def test_texts_join_with_nothing_between_and_nothing_at_all_is_null() -> None:
    assert user_text(("first", "second"), has_media=False) == "firstsecond"
    assert user_text((), has_media=False) == "NULL"
    assert user_text(("",), has_media=False) == ""
    assert user_text((), has_media=True) == ""


def test_videos_and_frame_lists_come_before_images_each_in_the_given_order() -> None:
    image, frames, video = (LoadedMedia(kind, (b"",)) for kind in (MediaKind.IMAGE, MediaKind.FRAMES, MediaKind.VIDEO))
    assert in_prompt_order([image, frames, video]) == [frames, video, image]
    assert in_prompt_order([video, image, frames]) == [video, frames, image]


def test_a_text_prompt() -> None:
    assert prompt() == (
        "<|im_start|>system\nDo.<|im_end|>\n<|im_start|>user\nt<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    )


def test_an_image_stands_between_user_and_text() -> None:
    assert "user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>t<|im_end|>" in prompt(VisualSlot(2, None))


def test_each_temporal_patch_has_its_own_wrapper_and_stamp_and_no_outer_one() -> None:
    shown = prompt(VisualSlot(1, (0.25, 1.25)), VisualSlot(1, None))
    assert shown.split("user\n")[1].split("t<|im_end|>")[0] == (
        "<0.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
        "<1.2 seconds><|vision_start|><|video_pad|><|vision_end|>"
        "<|vision_start|><|image_pad|><|vision_end|>"
    )


@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.lists(st.floats(0, 999), max_size=4)), max_size=4))
def test_pads_are_counted_per_slot(slots: list[tuple[int, list[float] | None]]) -> None:
    shown = prompt(*(VisualSlot(tokens, None if times is None else tuple(times)) for tokens, times in slots))
    assert shown.count("<|image_pad|>") == sum(tokens for tokens, times in slots if times is None)
    assert shown.count("<|video_pad|>") == sum(tokens * len(times) for tokens, times in slots if times is not None)
    assert shown.count("user\n") == 1
