"""The retrieval's config: read by the same function as every job's, with the same help and the same secrets kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config_files import load_config, redacted
from pipeline.errors import ConfigError
from pipeline.job import RETRIEVE, run_job
from pipeline.retrieve_config import RescoreConfig, RetrieveConfig
from tests.fixtures.jobs import ROOT

EXAMPLE = str(ROOT / "configs" / "retrieve.yaml")


def test_the_example_is_valid_and_rescoring_is_off_until_it_is_named() -> None:
    config = load_config(EXAMPLE, [], RetrieveConfig)
    assert (config.k, config.rescore, config.exclude_self) == (100, None, False)
    assert load_config(EXAMPLE, ["rescore={}"], RetrieveConfig).rescore == RescoreConfig(column="auto", oversample=4)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("corpus.vectr=a", "unknown key corpus.vectr; did you mean vector"),
        ("rescore.oversampel=2", "unknown key rescore.oversampel; did you mean oversample"),
        ("manifest.path=x", "unknown key manifest; "),
        ("k=0", "k: .*greater than or equal to 1"),
    ],
)
def test_mistakes_are_named_with_this_jobs_keys(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(EXAMPLE, [override], RetrieveConfig)


def test_what_is_printed_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = ["fetch.storage_options.s3.secret=SESAME", "queries.path=s3://me:SESAME@lake/q"]
    options = [each for override in secrets for each in ("--set", override)]
    assert run_job("retrieve_candidates", "", ["--config", EXAMPLE, *options, "--print-config"], RETRIEVE) == 0
    printed = capsys.readouterr().out
    assert "SESAME" not in printed
    assert "s3://lake/q" in printed
    (tmp_path / "again.yaml").write_text(printed)
    again = load_config(str(tmp_path / "again.yaml"), [], RetrieveConfig)
    assert redacted(again)["corpus"] == {"path": "s3://my-lake/vectors/qwen3-vl-2b", "vector": "vector"}
