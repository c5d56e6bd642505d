"""The config of `retrieve_candidates`: which vectors are the queries, which index is searched, and for what.

In: YAML, by `config_files.load_config`. Out: a frozen `RetrieveConfig`. Refused, as in every config: unknown keys and
wrong types.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.config import Section

__all__ = [
    "CandidatesConfig",
    "CorpusConfig",
    "QueriesConfig",
    "RescoreConfig",
    "RetrieveConfig",
    "ScanConfig",
    "StorageConfig",
]


class QueriesConfig(Section):
    """The query vectors: an index (what another job calls output.path), or Parquet with an id and a vector column."""

    path: str = Field(min_length=1, description="an index, or a Parquet file or folder; local or any fsspec URI")
    vector: str = "vector"
    id: str = Field(default="id", description="the id column, where the path is no index")
    cut: bool = Field(default=False, description="cut longer query vectors to the corpus's dim (MRL)")


class CorpusConfig(Section):
    """The index that is searched."""

    path: str = Field(min_length=1)
    vector: str = "vector"


class CandidatesConfig(Section):
    """Where the candidate lists go."""

    path: str = Field(min_length=1)
    trec: bool = Field(default=True, description="write run.trec too, which cannot hold ids with white space")


class RescoreConfig(Section):
    """Ranking the best documents again, by the float query against more than the scan has seen of them."""

    column: str = Field(
        default="auto",
        description="auto: the corpus's longest, then most exact vector no longer than the queries', bits last",
    )
    oversample: int = Field(default=4, ge=1, description="documents that are ranked again, in multiples of k")


class StorageConfig(Section):
    """How the stores are reached."""

    storage_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, repr=False, description="fsspec options by scheme, e.g. {s3: {endpoint_url: …}}"
    )


class ScanConfig(Section):
    """What the scan may take of a cluster."""

    address: str = Field(default="auto", description="auto: a cluster if there is one; local; or an address")
    cpus_per_scan: float = Field(default=1, gt=0)


class RetrieveConfig(Section):
    """A whole retrieval."""

    queries: QueriesConfig
    corpus: CorpusConfig
    output: CandidatesConfig
    k: int = Field(default=100, ge=1, description="documents of a query's list")
    filter: str | None = Field(
        default=None, description="a condition (DuckDB SQL) on the corpus's other columns: lang = 'de' AND year >= 2020"
    )
    rescore: RescoreConfig | None = None
    exclude_self: bool = Field(default=False, description="leave the document out whose id is the query's own")
    allow_other_model: bool = Field(default=False, description="search although queries and corpus name other models")
    fetch: StorageConfig = StorageConfig()
    resources: ScanConfig = ScanConfig()
