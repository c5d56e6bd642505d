"""The config of `jobs/evaluate_retrieval.py`: what is judged, by which measures, and what a recall report compares.

In: YAML through `config_files.load_config`. Out: a frozen `EvaluateConfig`. Refused with a message that names the key:
a config that asks for nothing, runs without judgements, a baseline that is no run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config import FetchConfig, Section

__all__ = ["DEFAULT_MEASURES", "EvaluateConfig", "EvaluationOutput", "RecallConfig", "Storage"]

Storage = Literal["float32", "float16", "int8", "binary"]
"""The dtypes of `config.VectorSpec`."""

DEFAULT_MEASURES = ("nDCG@10", "R@100", "RR@10", "AP")


class EvaluationOutput(Section):
    """Where the evaluation goes: under `<path>/evaluation/<run_id>/`."""

    path: str = Field(min_length=1)


class RecallConfig(Section):
    """What a float index keeps of its neighbours at smaller dims and dtypes."""

    index: str = Field(min_length=1, description="an index (output.path of its job), or Parquet with `id` and vectors")
    vector: str = Field(default="vector", min_length=1, description="its float32 or float16 column")
    queries: str | None = Field(
        default=None, min_length=1, description="another index or Parquet; null: items of the index itself"
    )
    dims: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="empty: the column's own, a half, a quarter and an eighth of it"
    )
    dtypes: tuple[Storage, ...] = Field(default=("float32", "float16", "int8", "binary"), min_length=1)
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 100), min_length=1)
    sample: int = Field(default=500, ge=1, description="queries that are taken at most")

    @field_validator("dims", "dtypes", "k")
    @classmethod
    def _once(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if len(set(values)) != len(values):
            raise ValueError("each value may be given once")
        return values


class EvaluateConfig(Section):
    """A whole evaluation."""

    output: EvaluationOutput
    qrels: str | None = Field(default=None, min_length=1, description="TREC or BEIR qrels, or Parquet")
    runs: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        default_factory=dict, description="name: a TREC run, Parquet pairs, or the output of a job that ranks"
    )
    measures: tuple[str, ...] = Field(default=DEFAULT_MEASURES, min_length=1, description="as ir-measures names them")
    baseline: str | None = Field(default=None, description="the run that others are compared with; null: the first")
    recall: RecallConfig | None = None
    fetch: FetchConfig = FetchConfig()

    @model_validator(mode="after")
    def _asks_for_something(self) -> EvaluateConfig:
        if bool(self.runs) != bool(self.qrels):
            given, missing = ("runs", "qrels") if self.runs else ("qrels", "runs")
            raise ValueError(f"{given} need {missing} too: judgements and what is judged by them")
        if not self.runs and self.recall is None:
            raise ValueError("nothing to do: give qrels and runs, or recall, or all three")
        if self.baseline is not None and self.baseline not in self.runs:
            raise ValueError(f"baseline {self.baseline!r} is none of the runs ({', '.join(self.runs) or 'none'})")
        return self
