"""All runs of an evaluation under all measures, and how each differs from the baseline.

In: runs by name, judgements, measures. Out: an `Evaluation`, and its tables. Nothing is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.evaluation.judgements import Judgements
from pipeline.evaluation.measures import RunMeasures, measure_run
from pipeline.evaluation.rankings import Ranking
from pipeline.evaluation.significance import Difference, compare_paired, holm

if TYPE_CHECKING:
    import ir_measures

__all__ = ["Comparison", "Evaluation", "evaluate", "measures_document", "per_query_table"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against the baseline under one measure; the corrected p-values are Holm's over all comparisons."""

    run: str
    measure: str
    difference: Difference
    t_test_p_holm: float
    randomisation_p_holm: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`queries`: the judged ones, in the order of every `RunMeasures.values`. `baseline` is a run's name."""

    measures: tuple[str, ...]
    queries: tuple[str, ...]
    runs: Mapping[str, RunMeasures]
    baseline: str
    comparisons: tuple[Comparison, ...]


def evaluate(
    runs: Mapping[str, Ranking], judgements: Judgements, measures: Sequence[ir_measures.Measure], baseline: str
) -> Evaluation:
    """Measure every run, and compare every other one with `baseline` on the same queries."""
    measured = {name: measure_run(ranking, judgements, measures) for name, ranking in runs.items()}
    names = tuple(str(measure) for measure in measures)
    return Evaluation(names, tuple(sorted(judgements)), measured, baseline, _comparisons(measured, names, baseline))


def per_query_table(evaluation: Evaluation) -> pa.Table:
    """query_id, run, measure, value: one row each, by run, then measure, then query."""
    runs, measures, queries = list(evaluation.runs), evaluation.measures, evaluation.queries
    return pa.table(
        {
            "query_id": pa.array(queries * (len(runs) * len(measures)), pa.string()),
            "run": pa.array(np.repeat(runs, len(measures) * len(queries)), pa.string()),
            "measure": pa.array(np.tile(np.repeat(measures, len(queries)), len(runs)), pa.string()),
            "value": pa.array(np.concatenate([evaluation.runs[run].values.ravel() for run in runs])),
        }
    )


def measures_document(evaluation: Evaluation) -> dict[str, Any]:
    """What `measures.json` says of the runs."""
    return {
        "judged_queries": len(evaluation.queries),
        "baseline": evaluation.baseline,
        "runs": {name: _run_document(evaluation.measures, run) for name, run in evaluation.runs.items()},
        "comparisons": [_comparison_document(each) for each in evaluation.comparisons],
    }


def _comparisons(runs: Mapping[str, RunMeasures], measures: Sequence[str], baseline: str) -> tuple[Comparison, ...]:
    pairs = [(run, place) for run in runs if run != baseline for place in range(len(measures))]
    differences = [compare_paired(runs[run].values[place], runs[baseline].values[place]) for run, place in pairs]
    t_test = holm([each.t_test_p for each in differences])
    randomisation = holm([each.randomisation_p for each in differences])
    return tuple(
        Comparison(run, measures[place], difference, corrected_t, corrected_r)
        for (run, place), difference, corrected_t, corrected_r in zip(
            pairs, differences, t_test, randomisation, strict=True
        )
    )


def _run_document(measures: Sequence[str], run: RunMeasures) -> dict[str, Any]:
    return {
        "measures": dict(zip(measures, run.aggregates.tolist(), strict=True)),
        "pairs": run.pairs,
        "judged_queries_without_results": run.without_results,
        "queries_without_judgements": run.unjudged,
    }


def _comparison_document(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "run": comparison.run,
        "measure": comparison.measure,
        "queries": difference.queries,
        "difference": difference.mean,
        "interval_95": [difference.low, difference.high],
        "queries_better": difference.better,
        "queries_worse": difference.worse,
        "t_test_p": difference.t_test_p,
        "randomisation_p": difference.randomisation_p,
        "t_test_p_holm": comparison.t_test_p_holm,
        "randomisation_p_holm": comparison.randomisation_p_holm,
    }
