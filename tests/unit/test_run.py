"""Where a run goes that finds an index of another kind: its place, and what `--plan` says of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.errors import OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind
from pipeline.index.log import Log
from pipeline.preview import preview
from pipeline.run import Run, continue_index, open_run, placed
from pipeline.tokenizer import PromptTokenizer
from tests.fixtures.manifests import write_jsonl
from tests.fixtures.tiny_model import tiny_model

tokenizer = cache(PromptTokenizer)
"""The real one, loaded once: it is most of what opening a run takes."""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    for module in ("run", "preview"):
        monkeypatch.setattr(f"pipeline.{module}.PromptTokenizer", tokenizer)
    manifest = write_jsonl(tmp_path / "lake" / "m.jsonl", [{"id": f"i{n}", "text": f"t{n}"} for n in range(5)])
    output = {"path": str(tmp_path / "out"), "vectors": [{"name": "vector", "dtype": "float32"}]}
    return Config.model_validate(
        {"manifest": {"path": str(manifest)}, "output": output, "model": {"path": str(tiny_model())}}
    )


def told(config: Config, on_recompute: str, **inputs: Any) -> Config:
    run = config.run.model_copy(update={"on_recompute": on_recompute})
    return config.model_copy(update={"run": run, "inputs": config.inputs.model_copy(update=inputs)})


def finish(run: Run) -> None:
    """A snapshot without rows, of the run's kind."""
    with Claim.acquire(run.store, run.run_id, fingerprint=run.compute_fingerprint) as claim:
        claim.commit(CommitKind.SNAPSHOT, info=run.info)


def opened(config: Config, run_id: str) -> Run:
    run = placed(open_run(config, run_id, uploaded=False))
    return continue_index(run, Log(run.store).state())


def test_an_index_beside_is_found_again_every_night_and_the_old_one_when_its_config_returns(config: Config) -> None:
    first = opened(config, "night1")
    assert first.config == config
    finish(first)
    with pytest.raises(OwnershipError, match=r"inputs\.instruction None is 'Find it' in this config"):
        opened(told(config, "refuse", instruction="Find it"), "night2")
    other = told(config, "new_index", instruction="Find it")
    night2 = opened(other, "night2")
    assert night2.store.root == night2.config.output.path == f"{config.output.path}-{night2.compute_fingerprint[:12]}"
    assert f"{config.output.path} holds another kind and stays as it is" in preview(other)
    finish(night2)
    assert opened(other, "night3").store == night2.store
    assert opened(told(config, "new_index"), "night4").store == first.store
    assert Log(first.store).head() == 2, "a claim and a snapshot: nobody else wrote there"


def test_an_index_beside_of_yet_another_kind_is_refused(config: Config) -> None:
    finish(opened(config, "night1"))
    other = told(config, "new_index", instruction="Find it")
    night2 = opened(other, "night2")
    finish(opened(told(config.model_copy(update={"output": night2.config.output}), "refuse"), "stranger"))
    with pytest.raises(OwnershipError, match="holds another kind of index too"):
        opened(other, "night3")


def test_an_index_beside_with_other_vectors_is_not_rewritten(config: Config) -> None:
    finish(opened(config, "night1"))
    other = told(config, "new_index", instruction="Find it")
    night2 = opened(other, "night2")
    finish(night2)
    vectors = [{"name": "small", "dim": 8}]
    output = config.output.model_validate({"path": config.output.path, "vectors": vectors})
    with pytest.raises(OwnershipError, match=r"holds another kind of index too: .*give this job another output\.path"):
        opened(other.model_copy(update={"output": output}), "night3")
    assert opened(other, "night4").store == night2.store


def test_a_plan_says_what_is_recomputed_and_what_is_derived(config: Config) -> None:
    finish(opened(config, "night1"))
    said = preview(told(config, "all", instruction="Find it"))
    assert "all is embedded again, none of the old vectors stays" in said
    assert "inputs.instruction None is 'Find it'" in said
    output = config.output.model_validate({"path": config.output.path, "vectors": [{"name": "small", "dim": 8}]})
    said = preview(config.model_copy(update={"output": output}))
    assert "every row is written anew, without the model: small from vector" in said
