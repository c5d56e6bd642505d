"""How a run goes on with the index that it finds: as ever, derived, recomputed, beside it, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import Config
from pipeline.errors import ConfigError, ExitCode, OwnershipError
from pipeline.fingerprint import compute_facts, compute_fingerprint
from pipeline.index.commits import Commit, CommitKind
from pipeline.index.snapshot import kind_info
from pipeline.index.state import IndexState, fold
from pipeline.kind import SAME_KIND, Continuation, beside, check_same_kind, continuation
from pipeline.storage import Store, open_store
from tests.fixtures.manifests import job_config

FLOAT = [{"name": "v", "dtype": "float32"}]


@dataclass(frozen=True)
class FakeRun:
    """A run without manifest and model: only what its kind is made of."""

    config: Config
    store: Store
    model_identity: str = "Qwen/X@0123"
    id_type: pa.DataType = field(default_factory=pa.string)
    hidden_dim: int = 64

    @property
    def compute_fingerprint(self) -> str:
        return compute_fingerprint(**self._decisive)

    @property
    def compute_facts(self) -> dict[str, Any]:
        return compute_facts(**self._decisive)

    @property
    def kind(self) -> dict[str, Any]:
        return kind_info(self.config.output.vectors, self.hidden_dim, self.id_type)

    @property
    def _decisive(self) -> dict[str, Any]:
        return {
            "model_identity": self.model_identity,
            "model": self.config.model,
            "template_version": "t/1",
            "inputs": self.config.inputs,
        }

    def index(self, **info: Any) -> IndexState:
        """The state of an index that this run has finished."""
        known = self.kind | {"compute": self.compute_facts} | info
        return fold([Commit(1, "first", CommitKind.SNAPSHOT, self.compute_fingerprint, "now", info=known)])


def run_of(folder: Path, vectors: Any = FLOAT, told: str = "refuse", inputs: Any = None, **other: Any) -> FakeRun:
    config = job_config(folder / "m.jsonl", folder / "out", inputs=inputs or {}, run={"on_recompute": told})
    output = config.output.model_validate({"path": config.output.path, "vectors": vectors})
    return FakeRun(config.model_copy(update={"output": output}), open_store(config.output.path), **other)


def refused(run: FakeRun, state: IndexState) -> str:
    with pytest.raises(OwnershipError) as error:
        continuation(run, state)
    assert error.value.exit_code == ExitCode.NOT_OURS
    return str(error.value)


def test_the_same_kind_goes_on_whatever_is_told(tmp_path: Path) -> None:
    state = run_of(tmp_path).index()
    for told in ("refuse", "all", "new_index"):
        assert continuation(run_of(tmp_path, told=told), state) == SAME_KIND == Continuation()
        assert continuation(run_of(tmp_path, told=told, inputs={"dedupe": False}), state) == SAME_KIND
        assert continuation(run_of(tmp_path, told=told), fold([])) == SAME_KIND


OTHER = [
    ({"instruction": "Find it"}, {}, ["inputs.instruction None is 'Find it'"]),
    (
        {"video": {"fps": 2.0}, "over_length": "reject"},
        {},
        ["inputs.video.fps 1.0 is 2.0", "over_length 'truncate' is"],
    ),
    ({"image": {"max_pixels": 5000}}, {}, ["inputs.image.max_pixels 1843200 is 5000"]),
    ({}, {"model_identity": "Qwen/X@9999"}, ["model 'Qwen/X@0123' is 'Qwen/X@9999'"]),
]


@pytest.mark.parametrize(("inputs", "other", "said"), OTHER)
def test_what_differs_is_named_and_so_are_the_switches(
    tmp_path: Path, inputs: dict[str, Any], other: dict[str, Any], said: list[str]
) -> None:
    state = run_of(tmp_path).index()
    message = refused(run_of(tmp_path, inputs=inputs, **other), state)
    for words in [*said, "another kind of index", "run.on_recompute=all", "run.on_recompute=new_index"]:
        assert words in message
    assert message.count(" in this config") == len(said), "and nothing else"
    assert continuation(run_of(tmp_path, told="all", inputs=inputs, **other), state).recompute
    assert continuation(run_of(tmp_path, told="new_index", inputs=inputs, **other), state).beside
    with pytest.raises(OwnershipError, match="give this job another output"):
        check_same_kind(run_of(tmp_path, told="all", inputs=inputs, **other), state)


def test_an_index_of_before_facts_were_recorded_is_refused_in_general(tmp_path: Path) -> None:
    run = run_of(tmp_path, inputs={"instruction": "Find it"})
    assert "sampling or a pixel budget differs" in refused(run, run_of(tmp_path).index(compute={}))


DERIVED = [[{"name": "v", "dim": 8, "dtype": "int8"}], [{"name": "w", "dtype": "float32"}]]


@pytest.mark.parametrize("vectors", DERIVED)
@pytest.mark.parametrize("told", ["refuse", "all", "new_index"])
def test_specs_that_the_stored_ones_give_are_derived_whatever_is_told(tmp_path: Path, vectors: Any, told: str) -> None:
    how = continuation(run_of(tmp_path, vectors, told), run_of(tmp_path).index())
    assert how.derivation is not None
    assert (how.recompute, how.beside) == (False, False)
    assert "holds vectors [{'name': 'v', 'dim': 64, 'dtype': 'float32'}]" in how.why


def test_specs_that_they_cannot_give_are_named(tmp_path: Path) -> None:
    state = run_of(tmp_path, [{"name": "v", "dim": 32, "dtype": "int8"}, *FLOAT[1:]]).index()
    wanted = [{"name": "w", "dim": 32, "dtype": "int8"}, {"name": "v", "dim": 8, "dtype": "int8"}]
    message = refused(run_of(tmp_path, wanted), state)
    assert "v (int8, dim 8) cannot be made from what is stored" in message
    assert "run.on_recompute=all" in message
    assert continuation(run_of(tmp_path, wanted, "all"), state).recompute
    assert continuation(run_of(tmp_path, wanted, "new_index"), state).beside


@pytest.mark.parametrize("told", ["refuse", "all"])
@pytest.mark.parametrize("inputs", [{}, {"instruction": "Find it"}])
def test_other_ids_are_always_refused(tmp_path: Path, told: str, inputs: dict[str, Any]) -> None:
    message = refused(run_of(tmp_path, told=told, inputs=inputs, id_type=pa.int64()), run_of(tmp_path).index())
    assert "ids of type string, this config int64" in message or told == "refuse"
    assert ("run.on_recompute" in message) == (told == "refuse" and bool(inputs))


@pytest.mark.parametrize("told", ["refuse", "all", "new_index"])
def test_a_table_of_scores_is_no_index_to_go_on_with(tmp_path: Path, told: str) -> None:
    scores = Commit(1, "first", CommitKind.SNAPSHOT, "f", "now", info={"table": "scores"})
    assert "run.on_recompute" not in refused(run_of(tmp_path, told=told), fold([scores]))


def test_the_place_beside_is_the_same_every_night() -> None:
    compute = "0123456789abcdef" * 2
    assert beside("s3://b/out/", compute) == beside("s3://b/out", compute) == "s3://b/out-0123456789ab"
    assert beside("file:///out", compute) == "file:///out-0123456789ab"
    for bucket in ("s3://b", "s3://b/"):
        with pytest.raises(ConfigError, match="a whole bucket"):
            beside(bucket, compute)
