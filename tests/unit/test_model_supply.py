"""A model folder runs no code, and no file of it is believed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.checkpoint import MAX_CONFIG_BYTES, resolve_checkpoint
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.tokenizer import MAX_FILE_BYTES, PromptTokenizer
from pipeline.weights import MAX_HEADER_BYTES
from tests.fixtures.planted import Planted, unpickled


def folder_of(home: Path) -> Path:
    folder = home / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl", "text_config": {"hidden_size": 8}}))
    (folder / "tokenizer.json").write_text("{}")
    save_file({"a": np.zeros((4, 4), np.float32), "b": np.ones(8, np.float32)}, folder / "model.safetensors")
    return folder


def raw_safetensors(folder: Path, header: bytes, data: bytes = b"\0" * 96, *, length: int | None = None) -> None:
    size = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header + data)


def tensors(folder: Path, **entries: Any) -> None:
    raw_safetensors(folder, json.dumps(entries).encode())


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


CRAFTED: dict[str, Callable[[Path], None]] = {
    "offsets beyond the file": lambda folder: tensors(folder, a=entry([100], 0, 400)),
    "negative offsets": lambda folder: tensors(folder, a=entry([4], -16, 0)),
    "offsets that run backwards": lambda folder: tensors(folder, a=entry([4], 16, 0)),
    "tensors that overlap": lambda folder: tensors(folder, a=entry([4], 0, 16), b=entry([4], 8, 24)),
    "a shape of another size": lambda folder: tensors(folder, a=entry([5], 0, 16)),
    "a shape that overflows": lambda folder: tensors(folder, a=entry([2**62, 2**62], 0, 16)),
    "a negative shape": lambda folder: tensors(folder, a=entry([-2, -2], 0, 16)),
    "another dtype than its bytes": lambda folder: tensors(folder, a=entry([4], 0, 16, "F64")),
    "an unknown dtype": lambda folder: tensors(folder, a=entry([4], 0, 16, "PICKLE")),
    "a header longer than the file": lambda folder: raw_safetensors(folder, b"{}", length=1000),
    "a header of 2^63 bytes": lambda folder: raw_safetensors(folder, b"{}", length=2**63),
    "a header over the limit": lambda folder: raw_safetensors(folder, b" " * (MAX_HEADER_BYTES + 1)),
    "a header too deep": lambda folder: raw_safetensors(folder, b'{"a":' + b"[" * 100_000),
    "a header that is a list": lambda folder: raw_safetensors(folder, b"[1, 2]"),
    "an empty file": lambda folder: (folder / "model.safetensors").write_bytes(b"") and None,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_safetensors_are_refused(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    resolve_checkpoint(ModelConfig(path=str(folder)))
    CRAFTED[name](folder)
    with pytest.raises(ConfigError, match=r"model\.safetensors is no safetensors file, or damaged"):
        resolve_checkpoint(ModelConfig(path=str(folder)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_pickled_weights_are_refused_unread(name: str, tmp_path: Path) -> None:
    folder, trap = folder_of(tmp_path), tmp_path / "trap"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Planted(trap)))
    unpickled.clear()
    with pytest.raises(ConfigError, match=r"pickled weights are never loaded"):
        resolve_checkpoint(ModelConfig(path=str(folder)))
    # As the named shard of an index, and in a file called safetensors.
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ConfigError, match="no safetensors file of the same folder"):
        resolve_checkpoint(ModelConfig(path=str(folder)))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").write_bytes(pickle.dumps(Planted(trap)))
    with pytest.raises(ConfigError, match="no safetensors file, or damaged"):
        resolve_checkpoint(ModelConfig(path=str(folder)))
    assert unpickled == []
    assert not trap.exists()


def test_code_of_the_model_s_own_is_refused_and_never_imported(tmp_path: Path) -> None:
    folder, trap = folder_of(tmp_path), tmp_path / "trap"
    (folder / "modeling_evil.py").write_text(f"open({str(trap)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    with pytest.raises(ConfigError, match="auto_map"):
        resolve_checkpoint(ModelConfig(path=str(folder)))
    assert not trap.exists()


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="merge it"):
        resolve_checkpoint(ModelConfig(path=str(folder)))


def test_configs_and_tokenizers_of_absurd_size_or_depth_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ConfigError, match=r"tokenizer\.json has more than"):
        PromptTokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        PromptTokenizer(folder)
    for content, said in ((b" " * (MAX_CONFIG_BYTES + 1), "more than"), (b"[" * 500_000, "cannot be read as JSON")):
        (folder / "config.json").write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            resolve_checkpoint(ModelConfig(path=str(folder)))
