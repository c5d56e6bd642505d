"""Checkpoints: found, checked and identified; every refusal says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.checkpoint import resolve_checkpoint
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.weights import weight_count, weight_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def small_checkpoint(folder: Path, hidden: int = 8, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": "qwen3_vl", "text_config": {"hidden_size": hidden}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    rng = np.random.default_rng(seed)
    tensors = {name: rng.standard_normal((64, 64), np.float32) for name in ("a", "b", "c")}
    save_file(tensors, folder / "model.safetensors")
    return folder


def resolve(path: Path | str, **options: Any) -> Any:
    weights = options.pop("weights", True)
    return resolve_checkpoint(ModelConfig(path=str(path), **options), weights=weights)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_copy_elsewhere_has_the_same_identity(tmp_path: Path) -> None:
    first = resolve(small_checkpoint(tmp_path / "one"))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    second = resolve(tmp_path / "two")
    assert first.identity == second.identity
    assert first.folder != second.folder
    assert first.hidden_dim == 8


def test_identity_is_the_same_with_and_without_weights(tmp_path: Path) -> None:
    folder = small_checkpoint(tmp_path / "m")
    assert resolve(folder).identity == resolve(folder, weights=False).identity


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_changing_any_tensor_changes_the_identity(tmp_path: Path, name: str) -> None:
    folder = small_checkpoint(tmp_path / "m")
    before = resolve(folder).identity
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = tensors[name] * np.float32(1.001)
    save_file(tensors, folder / "model.safetensors")
    assert resolve(folder).identity != before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_changing_config_or_tokenizer_changes_the_identity(tmp_path: Path, name: str) -> None:
    folder = small_checkpoint(tmp_path / "m")
    before = resolve(folder).identity
    (folder / name).write_text((folder / name).read_text() + " ")
    assert resolve(folder).identity != before


def test_a_readme_or_another_pooling_config_does_not_change_the_identity(tmp_path: Path) -> None:
    folder = small_checkpoint(tmp_path / "m")
    before = resolve(folder).identity
    (folder / "README.md").write_text("hello")
    assert resolve(folder).identity == before


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncated_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 16)


def _missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "z": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shard_outside(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_config, "holds no config.json"),
        (_broken_config, "cannot be read as JSON"),
        (lambda folder: edit_config(folder, model_type="qwen2_vl"), "'qwen2_vl' model; lakevec runs Qwen3-VL"),
        (lambda folder: edit_config(folder, auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (lambda folder: edit_config(folder, quantization_config={"bits": 4}), "quantised weights"),
        (lambda folder: edit_config(folder, text_config={}), "no text_config.hidden_size"),
        (_no_tokenizer, "lacks tokenizer.json"),
        (_no_weights, r"holds no \*.safetensors"),
        (_pickled_weights, "pytorch_model.bin, and pickled weights are never loaded"),
        (_truncated_header, "is no safetensors file, or damaged"),
        (_missing_shard, "lacks model-00002-of-00002.safetensors.*download is incomplete"),
        (_shard_outside, "no safetensors file of the same folder"),
    ],
)
def test_a_folder_that_cannot_run_is_refused(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    folder = small_checkpoint(tmp_path / "m")
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        resolve(folder)


def test_a_missing_folder_a_file_and_a_uri_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        resolve(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        resolve(tmp_path / "file")
    with pytest.raises(ConfigError, match="is a URI"):
        resolve("s3://bucket/model")


def test_a_revision_of_a_local_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="revision 'v2' means nothing"):
        resolve(small_checkpoint(tmp_path / "m"), revision="v2")


def test_sharded_weights_are_all_found(tmp_path: Path) -> None:
    folder = small_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    shutil.copyfile(folder / "model-1.safetensors", folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(folder)] == ["model-1.safetensors", "model-2.safetensors"]
    assert weight_count(folder) == 2 * 3 * 64 * 64
    assert resolve(folder).hidden_dim == 8


def _hub_script(model: str, revision: str | None) -> str:
    return (
        "from pipeline.checkpoint import resolve_checkpoint\n"
        "from pipeline.config import ModelConfig\n"
        "from pipeline.errors import ConfigError\n"
        "import sys\n"
        "try:\n"
        f"    found = resolve_checkpoint(ModelConfig(path={model!r}, revision={revision!r}))\n"
        "    print(found.identity, found.hidden_dim)\n"
        "except ConfigError as error:\n"
        "    print('ConfigError', error)\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)\n"
    )


def run_offline(hub: Path, model: str, revision: str | None = None) -> list[str]:
    environment = os.environ | {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    script = _hub_script(model, revision)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=240
    )
    return done.stdout.splitlines()


def test_a_hub_model_in_the_cache_is_identified_by_its_commit_without_torch(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    small_checkpoint(repository / "snapshots" / COMMIT, hidden=24)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert run_offline(tmp_path, "org/name") == [f"org/name@{COMMIT} 24", "False False"]
    assert run_offline(tmp_path, "org/name", COMMIT)[0] == f"org/name@{COMMIT} 24"


def test_a_hub_model_that_cannot_be_had_offline_says_what_to_do(tmp_path: Path) -> None:
    message = run_offline(tmp_path, "org/absent")[0]
    assert message.startswith("ConfigError cannot get the model 'org/absent'")
    assert "set model.path to its folder" in message


def test_modelscope_without_its_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ConfigError, match=r"pip install 'lakevec\[modelscope\]'"):
        resolve("modelscope:Qwen/Qwen3-VL-Embedding-2B")


def test_modelscope_ids_are_fetched_by_its_client_and_keep_one_identity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = small_checkpoint(tmp_path / "m")
    calls: list[tuple[str, str, list[str]]] = []

    def snapshot_download(model_id: str, *, revision: str, allow_patterns: list[str]) -> str:
        calls.append((model_id, revision, allow_patterns))
        return str(folder)

    client = ModuleType("modelscope")
    client.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", client)
    whole = resolve("modelscope:org/name", revision="v1")
    thin = resolve("modelscope:org/name", revision="v1", weights=False)
    assert whole.identity == thin.identity
    assert whole.identity.startswith("modelscope:org/name@v1:")
    assert [call[:2] for call in calls] == [("org/name", "v1")] * 2
    assert "*.safetensors" in calls[0][2]
    assert "*.safetensors" not in calls[1][2]
