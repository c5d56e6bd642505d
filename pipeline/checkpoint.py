"""A checkpoint: the local folder of a Qwen3-VL model, and what identifies it.

In: `model.path` (a folder, a Hugging Face id or `modelscope:<id>`) and `model.revision`. Out: a `Checkpoint`.
Refused (ConfigError): what cannot be found or fetched, another architecture, quantised or pickled weights, a model
that brings its own code. Imports no torch: preparers need the folder too.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.weights import check_weights, digest_weights

__all__ = ["Checkpoint", "resolve_checkpoint", "resolve_same"]

MODEL_TYPE = "qwen3_vl"
MODELSCOPE = "modelscope:"

MAX_CONFIG_BYTES = 1 << 20
"""The real ones have two thousand."""

TEXT_FILES = ["*.json", "*.txt", "*.jinja"]
WEIGHT_FILES = ["*.safetensors"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_HUB_ADVICE = {
    "GatedRepoError": "accept its licence on the hub and log in with `hf auth login`",
    "RepositoryNotFoundError": "check the spelling; a private model needs `hf auth login`",
    "RevisionNotFoundError": "check model.revision",
    "RevisionResolutionError": "check model.revision",
}
_OFFLINE_ADVICE = "check the network, or download the model elsewhere and set model.path to its folder"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on this machine's disk.

    `hidden_dim`: length of a vector before any MRL cut. `identity`: what decides vectors, part of the compute
    fingerprint; the same for every copy of the same files, whatever the folder is called.
    """

    folder: Path
    hidden_dim: int
    identity: str


def resolve_checkpoint(model: ModelConfig, *, weights: bool = True) -> Checkpoint:
    """Find `model` (download it if it is a hub's), check that lakevec can run it, and identify it.

    Without `weights` a hub's weight files are left where they are; identity and hidden_dim stay the same.
    Raises ConfigError with what is wrong, where, and what to do.
    """
    if model.path.startswith(MODELSCOPE):
        return _from_modelscope(model, weights)
    if "://" in model.path:
        raise ConfigError(
            f"model.path {model.path!r} is a URI; give a local folder, a Hugging Face id or {MODELSCOPE}<id>"
        )
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return _local(folder, model.revision, weights)
    if folder.exists():
        raise ConfigError(f"model.path {model.path!r} is a file; give the folder that holds config.json")
    if not _HUB_ID.fullmatch(model.path):
        raise ConfigError(f"model.path {model.path!r}: no such folder on this machine")
    return _from_hub(model.path, model.revision, weights)


def resolve_same(model: ModelConfig, identity: str, *, weights: bool = True) -> Checkpoint:
    """`resolve_checkpoint` on another machine than the one that found `identity`.

    Raises ConfigError if this machine's folder holds another model: its vectors would be mixed into the same index.
    """
    checkpoint = resolve_checkpoint(model, weights=weights)
    if checkpoint.identity != identity:
        raise ConfigError(
            f"model.path {model.path!r} is {checkpoint.identity} on this node and {identity} where the job started; "
            "give every node the same folder, or name the model by its hub id and revision"
        )
    return checkpoint


def _local(folder: Path, revision: str | None, weights: bool) -> Checkpoint:
    if revision is not None:
        raise ConfigError(f"model.revision {revision!r} means nothing for the local folder {folder}; leave it out")
    hidden_dim = _check(folder, weights)
    # The weights are part of the identity even where the caller does not need them: both must agree.
    identity = f"local:{_digest_files(folder)}:{digest_weights(folder)}"
    return Checkpoint(folder.resolve(), hidden_dim, identity)


def _from_hub(model_id: str, revision: str | None, weights: bool) -> Checkpoint:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = TEXT_FILES + WEIGHT_FILES if weights else TEXT_FILES
    try:
        folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        advice = _HUB_ADVICE.get(type(error).__name__, _OFFLINE_ADVICE)
        at = f" at revision {revision!r}" if revision else ""
        raise ConfigError(
            f"cannot get the model {model_id!r}{at} ({type(error).__name__}), and no such folder is here: {advice}"
        ) from None
    commit = folder.name
    if not _COMMIT.fullmatch(commit):
        raise ConfigError(f"the hub's cache has no commit for {model_id!r} ({folder}); clear that cache")
    return Checkpoint(folder, _check(folder, weights), f"{model_id}@{commit}")


def _from_modelscope(model: ModelConfig, weights: bool) -> Checkpoint:
    try:
        from modelscope import snapshot_download
    except ImportError:
        raise ConfigError(
            f"model.path {model.path!r} needs ModelScope's client: pip install 'lakevec[modelscope]'"
        ) from None
    model_id = model.path.removeprefix(MODELSCOPE)
    revision = model.revision or "master"
    patterns = TEXT_FILES + WEIGHT_FILES if weights else TEXT_FILES
    try:
        folder = Path(snapshot_download(model_id, revision=revision, allow_patterns=patterns))
    except Exception as error:  # noqa: BLE001 - the client raises its own, requests' and bare exceptions
        raise ConfigError(
            f"cannot get {model.path!r} at revision {revision!r} ({type(error).__name__}): {_OFFLINE_ADVICE}"
        ) from None
    # The client does not tell which commit a branch was: the text files stand in for it. A preparer has no weights.
    hidden_dim = _check(folder, weights)
    return Checkpoint(folder, hidden_dim, f"{model.path}@{revision}:{_digest_files(folder)}")


def _check(folder: Path, weights: bool) -> int:
    config = _read_config(folder)
    if config.get("model_type") != MODEL_TYPE:
        raise ConfigError(
            f"{folder} is a {config.get('model_type')!r} model; lakevec runs Qwen3-VL-Embedding ({MODEL_TYPE!r})"
        )
    if config.get("auto_map"):
        raise ConfigError(
            f"{folder}/config.json asks for code of its own (auto_map), which lakevec never runs; "
            "take auto_map out if the weights fit the stock architecture"
        )
    if config.get("quantization_config"):
        raise ConfigError(f"{folder} holds quantised weights; give the bfloat16 checkpoint")
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"{folder} lacks tokenizer.json; download the whole model, or save its fast tokenizer there")
    if (folder / "adapter_config.json").exists():
        raise ConfigError(f"{folder} holds an adapter (adapter_config.json); merge it into the weights and take it out")
    if weights:
        check_weights(folder)
    return _hidden_dim(config, folder)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path} has more than {MAX_CONFIG_BYTES} bytes; download the model again")
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no config.json; is it a model folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path} holds no JSON object")
    return config


def _hidden_dim(config: dict[str, Any], folder: Path) -> int:
    text = config.get("text_config")
    hidden_dim = text.get("hidden_size") if isinstance(text, dict) else None
    if not isinstance(hidden_dim, int) or hidden_dim < 1:
        raise ConfigError(f"{folder}/config.json has no text_config.hidden_size; download it again")
    return hidden_dim


def _digest_files(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("config.json", "tokenizer.json"):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
