"""Measures of a run against judgements, through ir-measures.

In: names as ir-measures spells them (`nDCG@10`), judgements, runs. Out: a value a query, run and measure, and their
aggregates. Refused with ConfigError: unknown measures, those that need more than query, document, score and relevance,
those without an installed provider.

Every judged query counts, as `trec_eval -c` does: one without results has the measure's worst value (0). A query of a
run that nobody judged counts nowhere. Documents are handed on by rank, so no two scores are equal and all providers
break ties alike.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.evaluation.judgements import Judgements
from pipeline.evaluation.rankings import Ranking

if TYPE_CHECKING:
    import ir_measures

__all__ = ["RunMeasures", "measure_run", "parse_measures", "require_library"]

_QUERIES = 1024
"""Queries whose documents are Python objects at once: 1,000 each make a million strings."""

_EXAMPLES = "examples: nDCG@10, R@100, RR@10, AP, P@5, Success@5"
_INPUTS = {"query_id", "doc_id", "score", "relevance"}


@dataclass(frozen=True, slots=True)
class RunMeasures:
    """One run's values: float64[measures, queries], in the order of the measures and of the judged queries' ids.

    `aggregates`: float64[measures], the mean over queries (the sum, for measures that count).
    `without_results`: judged queries that the run has nothing for; `unjudged`: its queries that nobody judged.
    """

    values: NDArray[np.float64]
    aggregates: NDArray[np.float64]
    without_results: int
    unjudged: int
    pairs: int


def require_library(module: str, use: str) -> None:
    """Raise ConfigError, saying how to install it, unless `module` can be imported."""
    try:
        __import__(module)
    except ImportError:
        raise ConfigError(
            f"{use} needs {module.replace('_', '-')}, which is not installed: pip install 'lakevec[report]'"
        ) from None


def parse_measures(names: Sequence[str]) -> list[ir_measures.Measure]:
    """The measures of `names`. Raises ConfigError: for an unknown one with the nearest, and for one named twice."""
    require_library("ir_measures", "measuring runs")
    measures = [_parse(name) for name in names]
    for place, measure in enumerate(measures):
        if measure in measures[:place]:
            raise ConfigError(f"measures: {names[place]} is {measure}, which is there more than once")
    return measures


def measure_run(ranking: Ranking, judgements: Judgements, measures: Sequence[ir_measures.Measure]) -> RunMeasures:
    """`measures` of every judged query in `ranking`."""
    queries = sorted(judgements)
    places = {query: place for place, query in enumerate(ranking.queries)}
    values = np.zeros((len(measures), len(queries)))
    for start in range(0, len(queries), _QUERIES):
        chunk = queries[start : start + _QUERIES]
        documents = {query: ranking.documents(places[query]) for query in chunk if query in places}
        for measure, column, value in _values(documents, {query: judgements[query] for query in chunk}, measures):
            values[measure, start + column] = value
    judged = sum(query in places for query in queries)
    aggregates = np.array([_aggregate(measure, row) for measure, row in zip(measures, values, strict=True)])
    return RunMeasures(values, aggregates, len(queries) - judged, len(ranking.queries) - judged, ranking.pairs)


def _values(
    documents: dict[str, list[str]], judgements: Judgements, measures: Sequence[ir_measures.Measure]
) -> Iterator[tuple[int, int, float]]:
    import ir_measures

    run = {query: {each: float(len(ids) - place) for place, each in enumerate(ids)} for query, ids in documents.items()}
    rows = {measure: row for row, measure in enumerate(measures)}
    columns = {query: column for column, query in enumerate(judgements)}
    for metric in ir_measures.evaluator(measures, judgements).iter_calc(run):
        yield rows[metric.measure], columns[metric.query_id], float(metric.value)


def _aggregate(measure: ir_measures.Measure, values: NDArray[np.float64]) -> float:
    aggregator = measure.aggregator()
    for value in values:
        aggregator.add(float(value))
    return float(aggregator.result())


def _parse(name: str) -> ir_measures.Measure:
    import ir_measures

    words, cutoff = _split(name)
    try:
        measure = ir_measures.parse_measure(words)
        measure = measure if cutoff is None else measure @ ast.literal_eval(cutoff)
        measure.validate_params()
    except (NameError, ValueError, TypeError, SyntaxError, KeyError, AssertionError):
        raise ConfigError(f"measures: ir-measures knows no {name!r}{_nearest(words)}; {_EXAMPLES}") from None
    if measure.params.get("cutoff", 1) < 1:
        raise ConfigError(f"measures: {name}: a cutoff is 1 or more; {_EXAMPLES}")
    _check_computable(measure, name)
    return measure


def _split(name: str) -> tuple[str, str | None]:
    # Not left to parse_measure: it reads numbers by a part of `ast` that Python 3.14 no longer has.
    words, at, cutoff = name.rpartition("@")
    return (words, cutoff) if at else (name, None)


def _check_computable(measure: ir_measures.Measure, name: str) -> None:
    import ir_measures

    needed = set(ir_measures.run_inputs([measure])) | set(ir_measures.qrel_inputs([measure]))
    lacking = ", ".join(sorted(needed - _INPUTS))
    try:
        if not lacking:
            list(ir_measures.iter_calc([measure], {"q": {"d": 1}}, {"q": {"d": 1.0}}))
    except Exception:  # noqa: BLE001 - providers call other programs, each with its own ways to fail
        lacking = "a provider that is not installed or does not work"
    if lacking:
        raise ConfigError(f"measures: {name} cannot be computed here: it needs {lacking}; leave it out")


def _nearest(name: str) -> str:
    import ir_measures

    registry: dict[str, Any] = ir_measures.measures.registry
    known = {each.lower(): measure.NAME for each, measure in registry.items()}
    word = name.partition("(")[0]
    if word in registry:
        return f" (check the cutoff and parameters of {word})"
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {known[close[0]]}?" if close else ""
