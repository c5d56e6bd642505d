"""Configs: frozen, strict, and helpful about mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.config import Config
from pipeline.config_files import load_config, redacted
from pipeline.errors import ConfigError

GOOD = "manifest: {path: m.parquet}\noutput: {path: out}\nmodel: {path: model}\n"


def load(tmp_path: Path, text: str = GOOD, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(str(path), list(overrides))


def test_defaults_are_the_designs(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.output.vectors[0].model_dump() == {"name": "vector", "dim": None, "dtype": "int8"}
    assert (config.inputs.max_length, config.inputs.image.max_pixels) == (8192, 1_843_200)
    assert (config.inputs.video.fps, config.inputs.video.max_frames) == (1, 64)
    assert config.run.commit_interval_s == 30


def test_overrides_are_yaml_and_reach_new_sections(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "run.max_items=5", "inputs.video.fps=0.5", "manifest.carry=[a, b]", "model.dtype=float32"
    )
    assert config.run.max_items == 5
    assert config.inputs.video.fps == 0.5
    assert config.manifest.carry == ("a", "b")


def test_codes_to_retry_are_a_list_or_one_word_with_commas(tmp_path: Path) -> None:
    for given in ("NOT_FOUND,GPU_OOM", "[NOT_FOUND, GPU_OOM]"):
        assert load(tmp_path, GOOD, f"run.retry={given}").run.retry == ("NOT_FOUND", "GPU_OOM")
        assert load(tmp_path, GOOD, f"run.retry={given}", "run.retry=").run.retry == ()


def test_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path).run.max_items = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["modle.path=x"], ["modle", "did you mean model"]),
        (["run.comit_interval_s=3"], ["run.comit_interval_s", "commit_interval_s"]),
        (["model.dtype=int4"], ["model.dtype", "int4"]),
        (["manifest.columns={imag: x}"], ["imag", "did you mean image"]),
        (["output.vectors=[{dim: 12, dtype: binary}]"], ["12", "8"]),
        (["output.vectors=[{name: a}, {name: a}]"], ["differently"]),
        (["output.vectors=[{name: code}]"], ["code", "columns of that name"]),
        (["output.vectors=[{name: run}]"], ["run"]),
        (["output.vectors=[{name: ID}]"], ["called id"]),
        (["output.vectors=[{name: a}, {name: A}]"], ["and differently"]),
        (["output.vectors=[]"], ["named"]),
        (["manifest.columns={text: id}"], ["text and id", "'id'"]),
        (["manifest.columns={image: url, video: url}"], ["'url'"]),
        (["fetch.storage_options={s3: 'AKIA:topsecret'}"], ["fetch.storage_options.s3"]),
        (["inputs.image.min_pixels=5000", "inputs.image.max_pixels=4000"], ["min_pixels"]),
        (["run.retry=NOT_FOUNDD"], ["NOT_FOUNDD", "did you mean NOT_FOUND"]),
        (["run.retry=not_found"], ["did you mean NOT_FOUND"]),
        (["manifest.carry=label"], ["manifest.carry", "a list", "'label'"]),
        (["output.vectors=vector"], ["output.vectors", "a list"]),
        (["fetch=s3"], ["fetch: expected keys"]),
        (["run"], ["key.path=value"]),
        (["manifest.path="], ["manifest.path"]),
        (["manifest.path=''"], ["manifest.path", "at least 1 character"]),
        (["output.path=''"], ["output.path", "at least 1 character"]),
        (["model.path.x=1"], ["not a section"]),
        (["run.max_items={"], ["YAML"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD, *overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("text", ["- a list", "{unclosed", "manifest: {path: m}\noutput: {path: o}"])
def test_files_that_are_no_config(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(tmp_path, text)


def test_a_missing_file() -> None:
    with pytest.raises(ConfigError, match=r"no/such\.yaml"):
        load_config("no/such.yaml", [])


def test_no_mistake_shows_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD, "fetch.storage_options={s3: 'AKIA:topsecret'}")
    assert "topsecret" not in str(caught.value)


def test_userinfo_of_uris_is_not_shown(tmp_path: Path) -> None:
    config = load(
        tmp_path, GOOD, "manifest.path=s3://KEY:hush@bucket/m.parquet",
        "fetch.storage_options={s3: {endpoint_url: 'https://user:hush@host'}}",
    )  # fmt: skip
    assert "hush" not in str(redacted(config))
    assert "https://host" in str(redacted(config))


def test_redaction_goes_all_the_way_down(tmp_path: Path) -> None:
    options = "fetch.storage_options={s3: {key: K1, client_kwargs: {aws_secret_access_key: K2, region_name: eu}}}"
    shown = str(redacted(load(tmp_path, GOOD, options)))
    assert "K1" not in shown
    assert "K2" not in shown
    assert "eu" in shown
