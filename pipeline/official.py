"""The official dictionaries of Qwen3-VL-Embedding, as `Embedder.embed` takes them.

In: `{"text": …, "image": …, "video": …, "instruction": …, "fps": …, "max_frames": …}`, every key optional, `text`,
`image` and `video` one value or a list. An image is a path, a `file://` or object URI, bytes or a Pillow image; a
video is a path, a URI, bytes, or a list of frames (images). Out: `OfficialItem`s, cheap to send to another process.
Refused (ConfigError naming the item): unknown keys and values of other types.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.manifest.location import locate
from pipeline.types import MediaKind

__all__ = [
    "OfficialItem",
    "OfficialMedia",
    "check_keys",
    "parse_at",
    "parse_instruction",
    "parse_item",
    "parse_sampling",
]

KEYS = ("text", "image", "video", "instruction", "fps", "max_frames")

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tiff", ".svg")
"""A list of videos whose first name ends so is one video given as frames: the official code's own rule."""


@dataclass(frozen=True, slots=True)
class OfficialMedia:
    """One image or video; each source is its bytes, or the absolute path or URI to read them from."""

    kind: MediaKind
    sources: tuple[bytes | str, ...]


@dataclass(frozen=True, slots=True)
class OfficialItem:
    """A dictionary, checked."""

    texts: tuple[str, ...]
    media: tuple[OfficialMedia, ...]
    instruction: str | None
    fps: float | None
    max_frames: int | None


def parse_item(raw: Mapping[str, Any], index: int) -> OfficialItem:
    """`raw`, which is `items[index]` in what is said about it. Raises ConfigError."""
    return parse_at(raw, f"items[{index}]")


def parse_at(raw: Mapping[str, Any], where: str) -> OfficialItem:
    """`raw`, which is `where` in what is said about it. Raises ConfigError."""
    check_keys(raw, where, KEYS, "{'text': …}")
    fps, max_frames = parse_sampling(raw, where)
    return OfficialItem(
        texts=tuple(_text(value, f"{where}['text']") for value in _listed(raw.get("text"))),
        media=(
            *_videos(raw.get("video"), f"{where}['video']"),
            *(_image(value, f"{where}['image']") for value in _listed(raw.get("image"))),
        ),
        instruction=parse_instruction(raw.get("instruction"), f"{where}['instruction']"),
        fps=fps,
        max_frames=max_frames,
    )


def check_keys(raw: Any, where: str, keys: Sequence[str], example: str) -> None:  # noqa: ANN401 - users give any object
    """Raise ConfigError unless `raw` is a dictionary with no other keys than `keys`."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is a {type(raw).__name__}; give a dictionary such as {example}")
    unknown = sorted(str(key) for key in raw if key not in keys)
    if unknown:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; valid keys: {', '.join(keys)}")


def parse_sampling(raw: Mapping[str, Any], where: str) -> tuple[float | None, int | None]:
    """`fps` and `max_frames` of `raw`, None where it has none. Raises ConfigError."""
    return _fps(raw.get("fps"), f"{where}['fps']"), _max_frames(raw.get("max_frames"), f"{where}['max_frames']")


def _listed(value: Any) -> Sequence[Any]:  # noqa: ANN401 - users give any object
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _text(value: Any, where: str) -> str:  # noqa: ANN401 - users give any object
    if not isinstance(value, str):
        raise ConfigError(f"{where} holds a {type(value).__name__}; give a string or a list of strings")
    return value


def _image(value: Any, where: str) -> OfficialMedia:  # noqa: ANN401 - users give any object
    return OfficialMedia(MediaKind.IMAGE, (_picture(value, where),))


def _videos(value: Any, where: str) -> list[OfficialMedia]:  # noqa: ANN401 - users give any object
    values = _listed(value)
    if isinstance(value, list | tuple) and values and _starts_frames(values[0]):
        return [OfficialMedia(MediaKind.FRAMES, tuple(_picture(frame, where) for frame in values))]
    return [OfficialMedia(MediaKind.VIDEO, (_source(one, where),)) for one in values]


def _starts_frames(first: Any) -> bool:  # noqa: ANN401 - users give any object
    if isinstance(first, str | os.PathLike):
        return os.fspath(first).lower().endswith(FRAME_SUFFIXES)
    return _is_pillow(first)


def _picture(value: Any, where: str) -> bytes | str:  # noqa: ANN401 - users give any object
    return _png(value) if _is_pillow(value) else _source(value, where)


def _source(value: Any, where: str) -> bytes | str:  # noqa: ANN401 - users give any object
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        return locate(str(Path.cwd()), os.fspath(value))
    advice = "; wrap an array in PIL.Image.fromarray" if hasattr(value, "__array__") else ""
    raise ConfigError(f"{where} holds a {type(value).__name__}; give a path, a URI or bytes{advice}")


def _is_pillow(value: Any) -> bool:  # noqa: ANN401 - users give any object
    # Pillow is a decoder: this process may hold the model, so it is recognised without being imported.
    return all(hasattr(value, name) for name in ("convert", "save", "getexif", "mode"))


def _png(image: Any) -> bytes:  # noqa: ANN401 - Pillow must not be imported here
    # PNG keeps RGB and RGBA exactly; any other mode becomes RGB in decoding anyway, by this same conversion.
    plain = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
    buffer = io.BytesIO()
    # The fastest level: these bytes only cross to the process that decodes.
    plain.save(buffer, "PNG", compress_level=1, exif=image.getexif())
    return buffer.getvalue()


def parse_instruction(value: Any, where: str) -> str | None:  # noqa: ANN401 - users give any object
    """`value` if it is a string or None. Raises ConfigError."""
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{where} is a {type(value).__name__}; give a string")
    return value


def _fps(value: Any, where: str) -> float | None:  # noqa: ANN401 - users give any object
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(f"{where} is {value!r}; give a number above 0")
    return float(value)


def _max_frames(value: Any, where: str) -> int | None:  # noqa: ANN401 - users give any object
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where} is {value!r}; give a whole number above 0")
    return value
