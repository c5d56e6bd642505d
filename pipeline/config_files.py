"""Config files: YAML and overrides into a config's model, and a config as it may be shown.

In: a path, and `key.path=value` overrides. Out: the model. Refused with ConfigError, naming the key: whatever is no
valid config (`pipeline.config_mistakes` has the words).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Config
from pipeline.config_mistakes import explained
from pipeline.errors import ConfigError
from pipeline.redaction import redact, remember_options, shown_options

__all__ = ["load_config", "redacted"]

M = TypeVar("M", bound=BaseModel)


@overload
def load_config(path: str, overrides: list[str]) -> Config: ...


@overload
def load_config(path: str, overrides: list[str], model: type[M]) -> M: ...


def load_config(path: str, overrides: list[str], model: type[BaseModel] = Config) -> BaseModel:
    """Read `path`, lay `overrides` (`key.path=YAML value`) over it, and check it as a `model`.

    Raises ConfigError, naming the key, for anything that is no valid config.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no valid YAML: {_without_snippet(error)}") from None
    if not isinstance(tree, dict):
        sections = ", ".join(f"{name}:" for name in list(model.model_fields)[:3])
        raise ConfigError(f"{path} must hold sections ({sections}, …), not {type(tree).__name__}")
    for override in overrides:
        _lay_over(tree, override)
    # Before it is judged: what is wrong is shown.
    fetch = tree.get("fetch")
    remember_options(fetch.get("storage_options") if isinstance(fetch, dict) else None)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [explained(detail, model) for detail in error.errors()]
        raise ConfigError(f"{path}: " + "\n  ".join(lines)) from None


def _without_snippet(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    # PyYAML quotes the line, and the line may hold a secret.
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return place + str(getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__)


def _lay_over(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        # Where the `=` is missing a value may stand beside the key, and it may be a secret.
        start = re.split(r"[^A-Za-z0-9_.]", override)[0]
        raise ConfigError(f"--set takes key.path=value, got {start!r} without a value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        shown = "what stands there" if key.startswith("fetch.storage_options") else repr(text)
        raise ConfigError(f"--set {key}: {shown} is no YAML value") from None
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {key}: {parent} is a value, not a section")
        node = child
    node[last] = value


def redacted(config: BaseModel) -> dict[str, Any]:
    """The config as plain YAML values; of storage options what is known to be no secret, of URIs likewise.

    `config` is a job's: `fetch` has `storage_options`.
    """
    tree: dict[str, Any] = _bare(config.model_dump(mode="json"))
    options = config.model_dump(mode="json", include={"fetch"})["fetch"]["storage_options"]
    tree["fetch"]["storage_options"] = {scheme: shown_options(each) for scheme, each in options.items()}
    return tree


def _bare(value: Any) -> Any:  # noqa: ANN401 - an option is any YAML value
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return redact(value) if isinstance(value, str) else value
