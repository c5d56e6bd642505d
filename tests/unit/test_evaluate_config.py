"""The evaluation's config: what it asks for, and help with mistakes in its own keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config_files import load_config, redacted
from pipeline.errors import ConfigError
from pipeline.evaluate_config import EvaluateConfig

GOOD = "output: {path: out}\nqrels: q.tsv\nruns: {a: a.trec, b: b.trec}\n"


def load(tmp_path: Path, text: str = GOOD, *overrides: str) -> EvaluateConfig:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(str(path), list(overrides), EvaluateConfig)


def test_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.measures == ("nDCG@10", "R@100", "RR@10", "AP")
    assert (config.baseline, config.recall) == (None, None)
    assert load(tmp_path, "output: {path: o}\nrecall: {index: i}\n").recall is not None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mesures=[AP]"], ["mesures", "did you mean measures?"]),
        (["recall={index: i, dimms: [3]}"], ["recall.dimms", "did you mean dims?"]),
        (["recall={index: i, k: [0]}"], ["recall.k.0"]),
        (["recall={index: i, k: [5, 5]}"], ["recall.k", "once"]),
        (["recall={index: i, dtypes: [int4]}"], ["recall.dtypes.0", "int4"]),
        (["recall={}"], ["recall.index is missing"]),
        (["qrels=null"], ["runs need qrels too"]),
        (["runs={}"], ["qrels need runs too"]),
        (["runs={}", "qrels=null"], ["nothing to do"]),
        (["baseline=c"], ["'c' is none of the runs (a, b)"]),
        (["output.path=''"], ["output.path"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD, *overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert ": :" not in str(caught.value)


def test_a_file_that_is_no_config_is_told_this_jobs_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must hold sections \(output:, qrels:, runs:"):
        load(tmp_path, "- a list")


def test_the_example_is_valid_and_secrets_are_not_shown(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "configs" / "evaluate.yaml"
    overrides = [
        "runs.a=s3://me:TOPSECRET@b/x",
        "fetch.storage_options={s3: {secret: TOPSECRET, endpoint_url: http://e}}",
    ]
    config = load_config(str(example), overrides, EvaluateConfig)
    shown = redacted(config)
    assert "TOPSECRET" not in str(shown)
    assert (shown["runs"]["a"], shown["fetch"]["storage_options"]["s3"]["endpoint_url"]) == ("s3://b/x", "http://e")
