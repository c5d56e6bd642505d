"""What is wrong with a config, in words that name the key: for whoever wrote the YAML, and knows no pydantic.

In: an error of pydantic's, and the model that was not met. Out: a line. Values under `fetch.storage_options` are left
out: they may be secrets.
"""

from __future__ import annotations

import difflib
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

__all__ = ["explained", "nearest"]

_IN_YAML = dict.fromkeys(("tuple_type", "list_type"), "expected a list, as in [a, b]") | dict.fromkeys(
    ("dict_type", "model_type"), "expected keys with values"
)
"""pydantic's error types whose own words speak of Python."""


def explained(detail: Any, model: type[BaseModel]) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    """One of `ValidationError.errors()` of `model`; an unknown key with the nearest valid one."""
    where = [str(part) for part in detail["loc"]]
    name = ".".join(where)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name}{nearest(where[-1], _keys_at(model, where[:-1]))}"
    if detail["type"] == "missing":
        return f"{name} is missing"
    message = _IN_YAML.get(detail["type"]) or re.sub(r"^Value error, ", "", detail["msg"])
    if not name:
        return message  # of the config as a whole
    if where[:2] == ["fetch", "storage_options"]:
        return f"{name}: {message}"  # what was given there may be a secret
    return (
        f"{name}: {message} (got {detail['input']!r})"
        if not isinstance(detail["input"], dict)
        else f"{name}: {message}"
    )


def _keys_at(root: type[BaseModel], path: list[str]) -> tuple[str, ...]:
    section: Any = root
    for part in path:
        if isinstance(section, type) and issubclass(section, BaseModel) and part in section.model_fields:
            section = _section_type(section.model_fields[part].annotation)
    return tuple(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else ()


def _section_type(annotation: Any) -> Any:  # noqa: ANN401 - annotations are any object
    if get_origin(annotation) in (Union, UnionType, tuple):
        models = [arg for arg in get_args(annotation) if isinstance(arg, type) and issubclass(arg, BaseModel)]
        return models[0] if models else None
    return annotation


def nearest(key: str, valid: tuple[str, ...]) -> str:
    """What to add to a message about the unknown `key`: the valid one most like it, else all of them."""
    close = difflib.get_close_matches(key, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; valid: {', '.join(valid)}"
