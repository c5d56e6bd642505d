from __future__ import annotations

from pipeline.config import InputsConfig
from pipeline.prepare import Preparer
from pipeline.render import render
from pipeline.types import LoadedItem, LoadedMedia, MediaKind
from tests.fixtures.golden_cases import png
from tests.fixtures.tokenizer import prompt_tokenizer


def shown(item: LoadedItem, **inputs: object) -> str:
    tokenizer = prompt_tokenizer()
    return render(Preparer(tokenizer, InputsConfig.model_validate(inputs)).prepare(item), tokenizer)


def test_a_text_item() -> None:
    assert shown(LoadedItem("a", ("hello",), ())) == (
        "<|im_start|>system\nRepresent the user's input.<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<|endoftext|>\n"
        "\n"
        "item a: text\n"
        "21 tokens, 0 of them visual; 0 video frames\n"
    )


def test_a_mixed_item_lists_each_visual_with_its_times() -> None:
    frames = LoadedMedia(MediaKind.FRAMES, tuple(png(64, 64, seed) for seed in range(3)))
    image = LoadedMedia(MediaKind.IMAGE, (png(200, 150, 1),))
    prompt, _, facts = shown(LoadedItem("b", ("cap <9.9 seconds>",), (image, frames))).rpartition("\n\n")
    assert (
        "user\n<0.2 seconds><|vision_start|><|video_pad|>×144<|vision_end|>"
        "<1.2 seconds><|vision_start|><|video_pad|>×144<|vision_end|>"
        "<|vision_start|><|image_pad|>×30<|vision_end|>cap <9.9 seconds><|im_end|>"
    ) in prompt
    lines = facts.splitlines()
    assert lines[0] == "item b: mixed"
    assert lines[1].endswith("318 of them visual; 4 video frames")
    assert lines[2] == "visual 1: frames, 384x384 px, grid_thw (2, 24, 24), 288 tokens, 4 frames, at 0.2 1.2 s"
    assert lines[3] == "visual 2: image, 192x160 px, grid_thw (1, 10, 12), 30 tokens"


def test_two_videos_of_one_item_each_get_their_own_times() -> None:
    frames = LoadedMedia(MediaKind.FRAMES, tuple(png(64, 64, seed) for seed in range(4)))
    lines = shown(LoadedItem("c", (), (frames, frames))).splitlines()
    assert [line.split(" at ")[1] for line in lines[-2:]] == ["0.2 1.2 s", "0.2 1.2 s"]


def test_a_cut_item_says_so() -> None:
    assert "item d: text, truncated\n64 tokens" in shown(LoadedItem("d", ("word " * 200,), ()), max_length=64)
