"""The rerank job's config: the official reranker's defaults, and the same help about mistakes as the embed job's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config_files import load_config, redacted
from pipeline.errors import ConfigError
from pipeline.rerank.config import RerankConfig

GOOD = "queries: {path: q}\ndocuments: {path: d}\ncandidates: {path: c}\noutput: {path: out}\nmodel: {path: model}\n"


def load(tmp_path: Path, *overrides: str, text: str = GOOD) -> RerankConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(str(path), list(overrides), RerankConfig)


def test_defaults_are_the_official_reranker_s(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.inputs.max_length, config.inputs.instruction, config.inputs.over_length) == (
        10_240,
        None,
        "truncate",
    )
    assert (config.inputs.video.fps, config.inputs.video.max_frames, config.inputs.image.max_pixels) == (
        1,
        64,
        1_843_200,
    )
    assert (config.candidates.format, config.candidates.top_k) == ("auto", None)


def test_the_example_is_a_config() -> None:
    config = load_config("configs/rerank.yaml", [], RerankConfig)
    assert config.candidates.top_k == 100


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["candidate.path=x"], ["candidate", "did you mean candidates"]),
        (["candidates.topk=3"], ["candidates.topk", "top_k"]),
        (["queries.pth=3"], ["queries.pth", "did you mean path"]),
        (["inputs.side_token=3"], ["inputs.side_token", "side_tokens"]),
        (["run.max_delete_fraction=0.5"], ["max_delete_fraction", "follows the lists"]),
        (["run.on_recompute=all"], ["on_recompute", "their own output"]),
        (["candidates.columns={doc: x}"], ["'doc'", "doc_id"]),
        (["candidates.columns={doc_id: x, query_id: x}"], ["doc_id", "query_id", "'x'"]),
        (["candidates.format=json"], ["candidates.format", "json"]),
        (["candidates={top_k: 3}"], ["candidates", "beir"]),
        (["output.vectors=[]"], ["output.vectors"]),
        (["run.max_items=3"], ["run.max_items", "candidates.top_k"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_no_section_shows_userinfo(tmp_path: Path) -> None:
    paths = [f"{section}.path=s3://KEY:hush@b/x" for section in ("queries", "documents", "candidates", "output")]
    shown = str(redacted(load(tmp_path, *paths, "candidates.beir=s3://KEY:hush@b/y")))
    assert "hush" not in shown
    assert shown.count("s3://b/") == 5
