"""What is settled before the first file is scanned: that corpus, queries, filter and rescoring go together.

In: a `RetrieveConfig`, or an open index and what is wanted of it. Out: a `Retrieval`, `QueryVectors`. Refused with
ConfigError: places without an index or queries, vector columns that are not there, queries of another dim or another
model than the corpus's, filters that do not fit, and stores that do not let it in.
"""

from __future__ import annotations

from pipeline.config import VectorSpec
from pipeline.errors import ConfigError
from pipeline.opening import opening
from pipeline.retrieval.query_vectors import QueryVectors, open_queries
from pipeline.retrieval.retrieval import Retrieval
from pipeline.retrieval.row_filter import settle_filter
from pipeline.retrieval.scan import Scan
from pipeline.retrieval.vector_index import VectorIndex, open_index
from pipeline.retrieve_config import RescoreConfig, RetrieveConfig
from pipeline.storage import open_store

__all__ = ["open_retrieval", "settle", "settle_rescore"]

EXACTNESS = ("float32", "float16", "int8")
"""What rescoring goes by, the most exact first; the longest vectors come before the most exact ones."""


def open_retrieval(config: RetrieveConfig) -> tuple[Retrieval, QueryVectors]:
    """Open corpus and queries of `config` and check that they go together."""
    options = config.fetch.storage_options
    with opening("corpus.path", config.corpus.path):
        corpus = open_index(open_store(config.corpus.path, options))
    with opening("queries.path", config.queries.path):
        queries = open_queries(config.queries.path, config.queries.vector, config.queries.id, options)
    spec = corpus.spec(config.corpus.vector)
    _check_dims(queries.spec, spec, config.queries.cut)
    if not config.allow_other_model:
        _check_model(queries, corpus)
    rescore = settle_rescore(config.rescore, corpus, spec, queries.spec.dim or 0, config.queries.cut)
    return settle(
        corpus,
        spec,
        k=config.k,
        condition=config.filter,
        rescore=rescore,
        oversample=config.rescore.oversample if config.rescore else 1,
        exclude_self=config.exclude_self,
    ), queries


def settle(
    corpus: VectorIndex,
    spec: VectorSpec,
    *,
    k: int,
    condition: str | None = None,
    rescore: VectorSpec | None = None,
    oversample: int = 1,
    exclude_self: bool = False,
) -> Retrieval:
    """A retrieval from column `spec` of `corpus`. Raises ConfigError for a `condition` that does not fit."""
    row_filter = settle_filter(condition, corpus.schema, corpus.vector_columns) if condition and corpus.files else None
    # One more, so that k are left when the query itself was among them.
    first = k * (oversample if rescore else 1) + exclude_self
    return Retrieval(corpus, Scan(spec, first, corpus.id_type, row_filter), rescore, k, exclude_self)


def settle_rescore(
    config: RescoreConfig | None, corpus: VectorIndex, scanned: VectorSpec, query_dim: int, cut: bool
) -> VectorSpec | None:
    """The column to rank by again; None without rescoring. Raises ConfigError for one that does not fit."""
    if config is None:
        return None
    if config.column != "auto":
        spec = corpus.spec(config.column)
        _check_dims(VectorSpec(name="queries", dim=query_dim), spec, cut)
        return spec
    # With `cut`, queries may be longer than what is scanned: so may be what they are ranked by again.
    dims = range(scanned.dim or 0, query_dim + 1)
    others = [spec for spec in corpus.specs if spec.dim in dims and spec.dtype in EXACTNESS]
    return min(others, key=lambda spec: (-(spec.dim or 0), EXACTNESS.index(spec.dtype)), default=scanned)


def _check_dims(queries: VectorSpec, corpus: VectorSpec, cut: bool) -> None:
    there, here = queries.dim or 0, corpus.dim or 0
    if there == here or (cut and there > here):
        return
    advice = "set queries.cut: true to cut them (MRL), or " if there > here else ""
    raise ConfigError(
        f"the queries' vector {queries.name!r} has dim {there}, the corpus's {corpus.name!r} has {here}; {advice}"
        "name vectors of one dim in queries.vector and corpus.vector"
    )


def _check_model(queries: QueryVectors, corpus: VectorIndex) -> None:
    # Not the compute fingerprint: queries rightly have another instruction, other pixel budgets.
    there, here = queries.facts.get("model_identity"), corpus.facts.get("model_identity")
    if there and here and there != here:
        raise ConfigError(
            f"the queries were embedded by {queries.facts.get('model')} ({there}), the corpus by "
            f"{corpus.facts.get('model')} ({here}): their vectors cannot be compared; embed the queries with the "
            "corpus's model, or set allow_other_model: true if both are the same under two names"
        )
