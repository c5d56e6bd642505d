"""The official dictionaries: read as the official code reads them, and refused by place and name otherwise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.official import OfficialItem, parse_item
from pipeline.types import MediaKind


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"img": "a.png"}, r"items\[7\] has the unknown key 'img'; valid keys: text, image"),
        ("text", r"items\[7\] is a str; give a dictionary"),
        ({"text": 3}, r"items\[7\]\['text'\] holds a int"),
        ({"image": np.zeros((4, 4, 3), np.uint8)}, "wrap an array in PIL.Image.fromarray"),
        ({"image": [None]}, r"\['image'\] holds a NoneType"),
        ({"video": {"path": "a.mp4"}}, r"\['video'\] holds a dict"),
        ({"instruction": ["a"]}, r"\['instruction'\] is a list"),
        ({"fps": 0}, r"\['fps'\] is 0"),
        ({"fps": float("nan")}, r"\['fps'\] is nan"),
        ({"max_frames": 2.5}, r"\['max_frames'\] is 2.5"),
    ],
)
def test_a_malformed_dictionary_is_refused_with_its_place(item: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_item(item, 7)


def test_a_list_of_videos_is_frames_exactly_when_its_first_is_a_picture() -> None:
    assert [one.kind for one in parse_item({"video": ["/a.JPG", "/b"]}, 0).media] == [MediaKind.FRAMES]
    assert [one.kind for one in parse_item({"video": ["/a.mp4", "/b.jpg"]}, 0).media] == [MediaKind.VIDEO] * 2
    assert [one.kind for one in parse_item({"video": "/a.jpg"}, 0).media] == [MediaKind.VIDEO]
    assert parse_item({"video": [], "image": (), "text": []}, 0).media == ()


def test_relative_paths_are_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [one.sources[0] for one in parse_item({"image": ["a b.png", "s3://bucket/k", "file:///x%20y"]}, 0).media]
    assert sources == [str(tmp_path / "a b.png"), "s3://bucket/k", "/x y"]


def test_a_full_dictionary_and_an_empty_one() -> None:
    assert parse_item({}, 0) == OfficialItem((), (), None, None, None)
    full = parse_item(
        {"text": ("a", ""), "image": b"i", "video": bytearray(b"v"), "instruction": "x", "fps": 2, "max_frames": 8}, 0
    )
    assert full.texts == ("a", "")
    assert [(one.kind, one.sources) for one in full.media] == [(MediaKind.VIDEO, (b"v",)), (MediaKind.IMAGE, (b"i",))]
    assert (full.instruction, full.fps, full.max_frames) == ("x", 2.0, 8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_a_pillow_image_of_any_mode_becomes_a_png_of_the_pixels_that_decoding_sees(mode: str) -> None:
    levels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image = Image.fromarray(levels).convert("L" if mode == "I;16" else "RGB").convert(mode)
    source = parse_item({"image": image}, 0).media[0].sources[0]
    assert isinstance(source, bytes)
    with Image.open(io.BytesIO(source)) as decoded:
        expected = image if mode == "RGBA" else image.convert("RGB")
        assert decoded.mode == expected.mode
        np.testing.assert_array_equal(np.asarray(decoded), np.asarray(expected))
