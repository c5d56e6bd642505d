"""Each classic mistake in preparation, made on purpose: the golden comparison must notice it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline.assembly
import pipeline.budget
import pipeline.prepare
import pipeline.visuals
from pipeline.config import InputsConfig
from pipeline.positions import mrope_positions
from pipeline.prepare import Preparer
from pipeline.template import CONTROL_IDS, Control, Plain, Prompt, VisualSlot, compose
from pipeline.types import MediaKind
from tests.fixtures.golden_cases import embed_item, golden_embed, golden_ids, patchify
from tests.fixtures.tokenizer import prompt_tokenizer

Mutation = Callable[[pytest.MonkeyPatch], None]


def differences(name: str) -> set[str]:
    """What of the golden case `name` our preparation does not reproduce."""
    prepared = Preparer(prompt_tokenizer(), InputsConfig()).prepare(embed_item(name))
    want = golden_embed(name)
    found = set()
    if prepared.input_ids.tolist() != golden_ids(name).tolist():
        found.add("ids")
    positions = hashlib.sha256(prepared.position_ids.astype("<i8").tobytes()).hexdigest()
    if positions != want.get("position_ids_sha256_i64le", positions):
        found.add("positions")
    images = [patchify(visual.frames) for visual in prepared.visuals if visual.kind is MediaKind.IMAGE]
    pixels = hashlib.sha256(np.concatenate(images).tobytes()).hexdigest() if images else None
    if pixels != want.get("pixel_values", {}).get("sha256_f32le"):
        found.add("pixels")
    return found


def recompose(change: Callable[[Prompt], Prompt]) -> Mutation:
    def changed(instruction: str, visuals: Sequence[VisualSlot], text: str) -> Prompt:
        return change(compose(instruction, visuals, text))

    return lambda patch: patch.setattr(pipeline.prepare, "compose", changed)


def without_eos(prompt: Prompt) -> Prompt:
    return Prompt(prompt.before, prompt.head, prompt.text, prompt.after[:-1])


def with_outer_wrapper(prompt: Prompt) -> Prompt:
    # As transformers 5 leaves it: one more pair around all of a video's temporal patches.
    first = next(place for place, piece in enumerate(prompt.before) if isinstance(piece, Plain) and "<0." in piece.text)
    start, end = Control(CONTROL_IDS["<|vision_start|>"]), Control(CONTROL_IDS["<|vision_end|>"])
    stamp = Plain("<0.2 seconds>")
    before = (*prompt.before[:first], Plain("user\n"), start, stamp, *prompt.before[first + 1 :], end)
    return Prompt(before, prompt.head, prompt.text, prompt.after)


def text_before_image(prompt: Prompt) -> Prompt:
    user = next(
        place for place, piece in enumerate(prompt.before) if isinstance(piece, Plain) and piece.text == "user\n"
    )
    before = (*prompt.before[:user], Plain("user\n" + prompt.text), *prompt.before[user + 1 :])
    return Prompt(before, "", "", prompt.after)


def first_resize_by_32(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline.budget, "FRAME_LIST_FACTOR_PX", 32)


def swapped_axes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pipeline.assembly, "mrope_positions", lambda *arguments: mrope_positions(*arguments)[[0, 2, 1]])


def bilinear(patch: pytest.MonkeyPatch) -> None:
    def resize(image: Any, height_px: int, width_px: int, **_: Any) -> np.ndarray:
        return np.asarray(image.resize((width_px, height_px), Image.Resampling.BILINEAR))

    patch.setattr(pipeline.visuals, "resize_image", resize)


MUTATIONS: list[Any] = [
    pytest.param(recompose(without_eos), "text", {"ids"}, id="no final token"),
    pytest.param(recompose(with_outer_wrapper), "frames9_300x180", {"ids", "positions"}, id="outer video wrapper"),
    pytest.param(recompose(text_before_image), "img_text", {"ids", "positions"}, id="text before image"),
    pytest.param(first_resize_by_32, "frames9_300x180", {"ids", "positions"}, id="first resize by 32"),
    pytest.param(swapped_axes, "img_200x150", {"positions"}, id="height and width swapped"),
    pytest.param(bilinear, "img_517x333", {"pixels"}, id="bilinear"),
]


@pytest.mark.parametrize(("mutate", "name", "seen"), MUTATIONS)
def test_the_golden_comparison_notices(
    mutate: Mutation, name: str, seen: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differences(name) == set()
    mutate(monkeypatch)
    assert differences(name) == seen
