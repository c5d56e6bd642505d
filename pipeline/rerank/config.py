"""The config of `jobs/rerank_candidates.py`: the embed job's sections where they mean the same, and its own.

In: YAML, by way of `config.load_config(path, overrides, RerankConfig)`. Out: frozen models. Unknown keys are refused
with the nearest valid one named, as in the embed job.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config import (
    DecodeConfig,
    FetchConfig,
    InputsConfig,
    ManifestConfig,
    ModelConfig,
    ResourcesConfig,
    RunConfig,
    Section,
)

__all__ = ["CANDIDATE_ROLES", "CandidatesConfig", "RerankConfig", "RerankInputs", "RerankOutput"]

CANDIDATE_ROLES = ("query_id", "doc_id", "doc_ids", "rank", "score", "scores")
"""The columns of candidate Parquet files, each renameable under `candidates.columns`."""


class CandidatesConfig(Section):
    """The first stage's lists: which documents are to be scored for which query."""

    path: str | None = Field(
        default=None, min_length=1, description="a file, folder or glob; null: the judged pairs of a BEIR folder"
    )
    format: Literal["auto", "pairs", "lists", "trec", "beir", "rankllm", "mmeb"] = "auto"
    beir: str | None = Field(
        default=None,
        min_length=1,
        description="a BEIR folder that queries and documents come from, with any candidates",
    )
    top_k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="the first so many of each list")
    columns: dict[str, str] = Field(default_factory=dict, description="role: the file's own column name")

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        unknown = [role for role in columns if role not in CANDIDATE_ROLES]
        if unknown:
            raise ValueError(f"unknown column {unknown[0]!r}; valid columns: {', '.join(CANDIDATE_ROLES)}")
        if len(set(columns.values())) < len(columns):
            raise ValueError(f"two columns are read from the same one: {columns}")
        return columns

    @model_validator(mode="after")
    def _some_place(self) -> Self:
        if self.path is None and self.beir is None:
            raise ValueError("give path (candidate lists) or beir (a BEIR folder)")
        return self


class RerankOutput(Section):
    """Where the scores go."""

    path: str = Field(min_length=1)
    target_file_mb: float = Field(default=256, gt=0, description="MiB that merged files aim at")


class RerankInputs(InputsConfig):
    """How a pair becomes a prompt; defaults of the official reranker, whose `max_length` is not the embedder's.

    `instruction` holds for queries without their own; one of a document says nothing.
    """

    max_length: int = Field(default=10_240, ge=64, description="tokens of a whole pair")
    side_tokens: Annotated[int, Field(ge=64)] | None = Field(
        default=None,
        description="tokens of one side's media from which on its video files are shrunk; null: all but the prompt's "
        "words and a sixteenth of max_length; set it to less than half where long videos meet long videos",
    )


class RerankRunConfig(RunConfig):
    """As an embed run's; its items are pairs, which are smaller than most items."""

    block_items: int = Field(default=1024, ge=1, description="pairs of one tile, whose halves are prepared together")

    @model_validator(mode="after")
    def _only_what_means_something(self) -> Self:
        if self.max_items is not None:
            raise ValueError("run.max_items cuts no candidate lists; candidates.top_k does")
        if self.on_recompute != "refuse":
            raise ValueError("run.on_recompute is for indexes of vectors; give another model's scores their own output")
        if self.max_delete_fraction != RunConfig.model_fields["max_delete_fraction"].default:
            raise ValueError("run.max_delete_fraction guards no score table, which follows the lists; leave it out")
        return self


class RerankConfig(Section):
    """A whole rerank job. `queries` and `documents` may be missing where the candidates bring them along."""

    candidates: CandidatesConfig
    output: RerankOutput
    model: ModelConfig
    queries: ManifestConfig | None = None
    documents: ManifestConfig | None = None
    inputs: RerankInputs = RerankInputs()
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    resources: ResourcesConfig = ResourcesConfig()
    run: RerankRunConfig = RerankRunConfig()
