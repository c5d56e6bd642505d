"""The evaluation job: runs against judgements, and what smaller vectors keep.

In: an `EvaluateConfig`. Out: `<output>/evaluation/<run_id>/` with `per_query.parquet` and `measures.json`, and with
`recall.parquet` and `recall.svg` if a recall report is asked for; tables on standard output. Refused, before anything
is written: what the config's paths do not hold. Nothing is resumed: a run takes minutes, and each has a folder.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.config import VectorSpec
from pipeline.config_files import redacted
from pipeline.errors import ExitCode
from pipeline.evaluate_config import EvaluateConfig, RecallConfig
from pipeline.evaluation.evaluation import Evaluation, evaluate, measures_document, per_query_table
from pipeline.evaluation.judgements import read_judgements
from pipeline.evaluation.measures import parse_measures, require_library
from pipeline.evaluation.rankings import TABLES, read_ranking
from pipeline.evaluation.recall import RecallReport, recall_report, specs_of
from pipeline.evaluation.sources import Options, Source, find_source
from pipeline.evaluation.tables import comparison_table, recall_table, run_table
from pipeline.evaluation.vectors import open_vectors
from pipeline.provenance import library_versions
from pipeline.run import check_lasting, check_reachable, new_run_id
from pipeline.storage import Store, open_store

__all__ = ["evaluate_retrieval", "plan_evaluation"]

_log = logging.getLogger("lakevec")

_LIBRARIES = ("lakevec", "ir-measures", "pytrec-eval-terrier", "scipy", "numpy", "pyarrow")
"""What decides the figures."""

_FILE_COLUMNS = 120
"""Width of the tables in a job's log, where no terminal gives one."""


def evaluate_retrieval(config: EvaluateConfig, job: str) -> ExitCode:
    """Evaluate, write, and print the tables. Raises ConfigError and ManifestError for what the user must mend."""
    started_at = datetime.now(UTC)
    run_id = new_run_id()
    store = _open_output(config)
    if config.recall is not None:
        # Its mistakes are found before the runs take their minutes.
        _open_recall(config.recall, config.fetch.storage_options)
    evaluation = _evaluate(config)
    report = recall_report(config.recall, config.fetch.storage_options) if config.recall is not None else None
    folder = f"evaluation/{run_id}"
    if evaluation is not None:
        _put_table(store, f"{folder}/per_query.parquet", per_query_table(evaluation))
    if report is not None:
        _put_recall(store, folder, report)
    # Last, and whole: a folder with it is a finished evaluation.
    store.put(f"{folder}/measures.json", _document(config, job, run_id, started_at, evaluation, report))
    _show(evaluation, report)
    _log.info("written to %s", store.uri(folder))
    return ExitCode.COMPLETE


def plan_evaluation(config: EvaluateConfig) -> str:
    """What would be read and computed: the files of every path, the measures, the specs of the recall report."""
    options = config.fetch.storage_options
    lines: list[str] = []
    if config.qrels is not None:
        paths = {"qrels": config.qrels} | {f"runs.{name}": path for name, path in config.runs.items()}
        for key, path in paths.items():
            tables = ("qrels",) if key == "qrels" else TABLES
            lines += _files(find_source(path, options, key=key, tables=tables))
        lines.append(f"measures: {', '.join(str(measure) for measure in parse_measures(config.measures))}")
        lines.append(f"baseline: {_baseline(config)}")
    if config.recall is not None:
        source, specs = _open_recall(config.recall, options)
        lines += _files(source)
        named = ", ".join(f"{spec.dim} {spec.dtype}" for spec in specs)
        lines.append(f"recall: at most {config.recall.sample} queries; k = {list(config.recall.k)}; {named}")
    return "\n".join(lines)


def _open_output(config: EvaluateConfig) -> Store:
    # Ray takes a second to import, which --print-config and bad configs do without.
    from pipeline.stages.session import uploaded_working_dir

    check_lasting(config.output.path, uploaded=uploaded_working_dir())
    store = open_store(config.output.path, config.fetch.storage_options)
    check_reachable(store)
    return store


def _evaluate(config: EvaluateConfig) -> Evaluation | None:
    if config.qrels is None:
        return None
    measures = parse_measures(config.measures)
    require_library("scipy", "comparing runs")
    options = config.fetch.storage_options
    judgements = read_judgements(config.qrels, options)
    runs = {name: read_ranking(path, options, key=f"runs.{name}") for name, path in config.runs.items()}
    evaluation = evaluate(runs, judgements, measures, _baseline(config))
    for name, run in evaluation.runs.items():
        if run.without_results or run.unjudged:
            _log.warning(
                "run %s: %d of %d judged queries have no results and count 0; %d queries nobody judged are left out",
                name, run.without_results, len(evaluation.queries), run.unjudged,
            )  # fmt: skip
    return evaluation


def _baseline(config: EvaluateConfig) -> str:
    return config.baseline or next(iter(config.runs))


def _open_recall(config: RecallConfig, options: Options) -> tuple[Source, list[VectorSpec]]:
    for module in ("scipy", "matplotlib"):
        require_library(module, "the recall report")
    vectors = open_vectors(config.index, config.vector, options, key="recall.index")
    return vectors.source, specs_of(config, vectors.dim)


def _files(source: Source) -> list[str]:
    first = source.paths[0]
    more = f" and {len(source.paths) - 1} more files" if len(source.paths) > 1 else ""
    return [f"{source.key}: {source.store.uri(first)}{more}"]


def _document(
    config: EvaluateConfig,
    job: str,
    run_id: str,
    started_at: datetime,
    evaluation: Evaluation | None,
    report: RecallReport | None,
) -> bytes:
    document: dict[str, Any] = {"run_id": run_id, "job": job, "started_at": started_at.isoformat()}
    document["finished_at"] = datetime.now(UTC).isoformat()
    document |= measures_document(evaluation) if evaluation is not None else {}
    if report is not None:
        document["recall"] = asdict(report)
    document |= {"versions": library_versions(_LIBRARIES), "config": redacted(config)}
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _put_recall(store: Store, folder: str, report: RecallReport) -> None:
    from pipeline.evaluation.picture import recall_svg

    _put_table(store, f"{folder}/recall.parquet", pa.Table.from_pylist([asdict(cell) for cell in report.cells]))
    store.put(f"{folder}/recall.svg", recall_svg(report))


def _put_table(store: Store, path: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    store.put(path, sink.getvalue().to_pybytes())


def _show(evaluation: Evaluation | None, report: RecallReport | None) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_COLUMNS)
    if evaluation is not None:
        console.print(run_table(evaluation))
        if evaluation.comparisons:
            console.print(comparison_table(evaluation))
    if report is not None:
        console.print(recall_table(report))
