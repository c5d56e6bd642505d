"""The prompt of the embedder, and the only place that knows it: order, wording, control tokens, empties.

In: an item's resolved parts. Out: a `Prompt` of plain text and control tokens, not yet tokenised. Refused: nothing;
every item has a prompt (an empty one says NULL). Visual pads are ids from the start and never pass through text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pipeline.types import MediaKind

__all__ = [
    "ANSWER_TURN",
    "CONTROL_IDS",
    "DEFAULT_INSTRUCTION",
    "END_OF_TEXT_ID",
    "IMAGE_PAD_ID",
    "NULL_TEXT",
    "TEMPLATE_VERSION",
    "VIDEO_PAD_ID",
    "Control",
    "Plain",
    "Prompt",
    "VisualSlot",
    "compose",
    "in_prompt_order",
    "resolve_instruction",
    "system_turn",
    "user_text",
    "visual_pieces",
]

TEMPLATE_VERSION = "qwen3-vl-embedding-4.57/1"
"""Part of every fingerprint: raise the number whenever a prompt of any item changes."""

DEFAULT_INSTRUCTION = "Represent the user's input."

NULL_TEXT = "NULL"
"""What an item with nothing in it says."""

CONTROL_IDS = {
    "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|object_ref_start|>": 151646,
    "<|object_ref_end|>": 151647, "<|box_start|>": 151648, "<|box_end|>": 151649, "<|quad_start|>": 151650,
    "<|quad_end|>": 151651, "<|vision_start|>": 151652, "<|vision_end|>": 151653, "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655, "<|video_pad|>": 151656,
}  # fmt: skip
"""Qwen3-VL's special tokens, all of which steer the model; a user's text must produce none of them."""

END_OF_TEXT_ID = CONTROL_IDS["<|endoftext|>"]
IMAGE_PAD_ID = CONTROL_IDS["<|image_pad|>"]
VIDEO_PAD_ID = CONTROL_IDS["<|video_pad|>"]

_IM_START, _IM_END = CONTROL_IDS["<|im_start|>"], CONTROL_IDS["<|im_end|>"]
_VISION_START, _VISION_END = CONTROL_IDS["<|vision_start|>"], CONTROL_IDS["<|vision_end|>"]


@dataclass(frozen=True, slots=True)
class Plain:
    """Text between control tokens; tokenised as one, since tokens merge across our words and the user's."""

    text: str


@dataclass(frozen=True, slots=True)
class Control:
    """`count` times the control token `token_id`."""

    token_id: int
    count: int = 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, or a half of one. The user's text stands between `before` and `after` and alone may be cut.

    `head` and `tail` are what the template puts right before and behind the user's text with no control token between
    (`user\\n`, or nothing): all three are tokenised together, and a cut keeps head and tail.
    """

    before: tuple[Plain | Control, ...]
    head: str
    text: str
    after: tuple[Plain | Control, ...]
    tail: str = ""


@dataclass(frozen=True, slots=True)
class VisualSlot:
    """What the prompt says of a visual: pads of one block, and each block's time; an image has one without a time."""

    patch_tokens: int
    times_s: tuple[float, ...] | None


ANSWER_TURN: tuple[Plain | Control, ...] = (Control(_IM_END), Plain("\n"), Control(_IM_START), Plain("assistant\n"))
"""The end of the user's turn and the header of the model's answer."""


class _HasKind(Protocol):
    @property
    def kind(self) -> MediaKind: ...


_Kind = TypeVar("_Kind", bound=_HasKind)


def in_prompt_order(media: Iterable[_Kind]) -> list[_Kind]:
    """All videos (files and frame lists alike, in the given order), then all images (likewise)."""
    return sorted(media, key=lambda medium: medium.kind is MediaKind.IMAGE)


def resolve_instruction(row: str | None, config: str | None) -> str:
    """The row's instruction, else the config's, else the default; one of white space only counts as absent.

    Stripped, and given a full stop unless it ends in punctuation (Unicode category P*, as the reference has it).
    """
    for candidate in (row, config):
        words = (candidate or "").strip()
        if words:
            return words if unicodedata.category(words[-1]).startswith("P") else words + "."
    return DEFAULT_INSTRUCTION


def user_text(texts: Sequence[str], *, has_media: bool) -> str:
    """The texts joined with nothing between; `NULL` when there is neither text nor medium. `("",)` is a text."""
    return "".join(texts) if texts or has_media else NULL_TEXT


def compose(instruction: str, visuals: Sequence[VisualSlot], text: str) -> Prompt:
    """The prompt of a resolved instruction, visuals in prompt order, and the user's joined text."""
    shown, head = visual_pieces("user\n", visuals)
    return Prompt((*system_turn(instruction), *shown), head, text, (*ANSWER_TURN, Control(END_OF_TEXT_ID)))


def system_turn(words: str) -> tuple[Plain | Control, ...]:
    """The system's turn, and the start of the next one."""
    return (Control(_IM_START), Plain(f"system\n{words}"), Control(_IM_END), Plain("\n"), Control(_IM_START))


def visual_pieces(head: str, visuals: Sequence[VisualSlot]) -> tuple[list[Plain | Control], str]:
    """The pieces of `visuals` behind `head`, which is plain text, and what of it stands right before what follows."""
    pieces: list[Plain | Control] = []
    for visual in visuals:
        for time_s in visual.times_s if visual.times_s is not None else (None,):
            stamp = "" if time_s is None else f"<{time_s:.1f} seconds>"
            pad = IMAGE_PAD_ID if time_s is None else VIDEO_PAD_ID
            pieces += [Plain(head + stamp), Control(_VISION_START), Control(pad, visual.patch_tokens)]
            pieces.append(Control(_VISION_END))
            head = ""
    return pieces, head
