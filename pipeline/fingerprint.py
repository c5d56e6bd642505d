"""Fingerprints: two items with the same one have the same vector, so a change in a fingerprint is what re-embeds.

In: plain values. Out: 32 hex digits. Nothing is refused. Every part is preceded by its length or count, so that no
two different inputs are ever the same bytes; the values must never change by accident, since that would
re-embed every lake.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pipeline.config import InputsConfig, ModelConfig
from pipeline.types import MediaKind

__all__ = ["Identity", "compute_facts", "compute_fingerprint", "item_fingerprint"]

Identity = tuple[str, ...]
"""What tells one state of a file from another: a tag that says how it is known, then the values."""

FINGERPRINT_BYTES = 16
"""128 bits: among a billion items some two meet by accident with a chance of 10^-21."""

_UNDECISIVE_INPUTS = {"dedupe", "identity"}
"""How work is saved and how changes are found: neither alters a vector."""


def compute_fingerprint(*, model_identity: str, model: ModelConfig, template_version: str, inputs: InputsConfig) -> str:
    """Hash of everything beside the item that decides its vector; not the vector specs.

    `model_identity` stands for the checkpoint, its revision included, wherever it lies. Of `model` only `dtype`
    counts: attention kernels, budgets and `deterministic` move a vector by rounding alone.
    """
    undecisive: dict[str, Any] = dict.fromkeys(_UNDECISIVE_INPUTS, True)
    if inputs.image.resize == "exact":
        # What every index holds that was written before there was a choice.
        undecisive["image"] = {"resize"}
    facts = {
        "model": model_identity,
        "dtype": model.dtype,
        "template": template_version,
        "inputs": inputs.model_dump(mode="json", exclude=undecisive),
    }
    return _hash(json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode("ascii"))


def compute_facts(
    *, model_identity: str, model: ModelConfig, template_version: str, inputs: InputsConfig
) -> dict[str, str | int | float | bool | None]:
    """What `compute_fingerprint` is of, as plain values by config key: to say later what differs."""
    decisive = inputs.model_dump(mode="json", exclude=_UNDECISIVE_INPUTS)
    facts = {"model": model_identity, "model.dtype": model.dtype, "template": template_version}
    return facts | dict(_leaves("inputs", decisive))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - a config's tree
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(f"{name}.{key}", each)
    else:
        yield name, value


def item_fingerprint(
    compute: str,
    *,
    instruction: str,
    fps: float | None,
    max_frames: int | None,
    texts: Sequence[str],
    media: Sequence[tuple[MediaKind, Sequence[Identity]]],
) -> str:
    """Hash of one item under the compute fingerprint `compute`.

    `instruction` is the resolved one, `fps` and `max_frames` the row's own; `media` are in order, each with the
    identity of each of its files (a frame list has several).
    """
    head = _head(compute, instruction, fps, max_frames)
    known = [_text(kind) + _list([_list([_text(value) for value in one]) for one in files]) for kind, files in media]
    return _hash(_encoded(head + _list([_text(text) for text in texts]) + _list(known)))


@lru_cache(maxsize=1024)  # most rows of a lake have the same settings
def _head(compute: str, instruction: str, fps: float | None, max_frames: int | None) -> str:
    settings = ("" if fps is None else repr(float(fps)), "" if max_frames is None else str(int(max_frames)))
    return "".join(map(_text, (compute, instruction, *settings)))


def _text(value: str) -> str:
    # Lengths in bytes of UTF-8, but one encoding for all at the end: this runs a dozen times for each of a lake's rows.
    return f"{len(value) if value.isascii() else len(_encoded(value))}:{value}"


def _list(parts: Sequence[str]) -> str:
    return f"{len(parts)}[{''.join(parts)}]"


def _encoded(value: str) -> bytes:
    # Strings from broken JSON escapes can hold unpaired surrogates; they must still tell apart.
    return value.encode("utf-8", "surrogatepass")


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=FINGERPRINT_BYTES).hexdigest()
