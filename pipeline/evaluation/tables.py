"""An evaluation and a recall report as tables for people.

In: an `Evaluation` or a `RecallReport`. Out: rich tables; names of runs are shown as they are, never as markup.
"""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.recall import RecallReport

__all__ = ["comparison_table", "recall_table", "run_table"]


def run_table(evaluation: Evaluation) -> Table:
    """A row a run: its measures, and how many queries it lacks."""
    table = Table(title=f"{len(evaluation.queries)} judged queries")
    table.add_column("run", overflow="fold")
    for measure in evaluation.measures:
        table.add_column(measure, justify="right")
    table.add_column("no results", justify="right")
    table.add_column("not judged", justify="right")
    for name, run in evaluation.runs.items():
        figures = [f"{value:.4f}" for value in run.aggregates]
        table.add_row(escape(name), *figures, str(run.without_results), str(run.unjudged))
    return table


def comparison_table(evaluation: Evaluation) -> Table:
    """A row a run and measure: the difference from the baseline, and what the tests say of it."""
    table = Table(title=escape(f"difference from {evaluation.baseline}"))
    table.add_column("run", overflow="fold")
    for name in ("measure", "diff.", "95 %", "better/worse", "p t-test", "Holm", "p random.", "Holm"):
        table.add_column(name, justify="right")
    for each in evaluation.comparisons:
        found = each.difference
        interval = "-" if found.low is None else f"{found.low:+.3f} {found.high:+.3f}"
        table.add_row(
            escape(each.run), each.measure, f"{found.mean:+.4f}", interval, f"{found.better}/{found.worse}",
            _p(found.t_test_p), _p(each.t_test_p_holm), _p(found.randomisation_p), _p(each.randomisation_p_holm),
        )  # fmt: skip
    return table


def recall_table(report: RecallReport) -> Table:
    """A row a k, dim and dtype."""
    own = ", queries are items themselves" if report.excluded_self else ""
    table = Table(title=f"neighbours kept: {report.queries} queries, {report.documents} items{own}")
    for name in ("k", "dim", "dtype", "bytes", "recall", "9 of 10 queries ≥", "tau-b"):
        table.add_column(name, justify="left" if name == "dtype" else "right")
    previous = None
    for cell in report.cells:
        if previous not in (None, cell.k):
            table.add_section()
        previous = cell.k
        table.add_row(
            str(cell.k), str(cell.dim), cell.dtype, str(cell.bytes_per_vector), f"{cell.recall:.4f}",
            f"{cell.recall_low:.4f}", f"{cell.tau_b:.4f}",
        )  # fmt: skip
    return table


def _p(value: float) -> str:
    return "<.0001" if value < 1e-4 else f"{value:.4f}"
