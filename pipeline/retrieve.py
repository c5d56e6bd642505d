"""The flow of `retrieve_candidates`: settle, scan as Ray tasks, merge, write. Runs in the job's driver.

In: a `RetrieveConfig`. Out: candidate files, `summary.json`, an exit code. Refused: what `open_retrieval` refuses.

Queries are answered in blocks, each by one pass over the corpus. The driver holds one block's answer, a few that tasks
have just given, and nothing that grows with the corpus or with the number of queries, but for the ids of queries out of
plain Parquet, none of which may be there twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.config import ResourcesConfig
from pipeline.errors import ExitCode, IncompleteError, LakevecError, scrub
from pipeline.retrieval.candidate_files import CandidateFiles, candidates_of
from pipeline.retrieval.query_vectors import QueryVectors
from pipeline.retrieval.retrieval import Retrieval
from pipeline.retrieval.scan import cut_pieces
from pipeline.retrieval.settle import open_retrieval
from pipeline.retrieve_config import RetrieveConfig
from pipeline.run import check_lasting, check_reachable, new_run_id
from pipeline.stages.scan import scan_tasks, tasks_at_once
from pipeline.stages.session import Cluster, ray_session, uploaded_working_dir
from pipeline.stages.shared_paths import check_shared_paths
from pipeline.stop import StopRequest, listen_for_stop
from pipeline.storage import Store, open_store
from pipeline.summary import config_facts, put_summary, run_facts, summary_path

__all__ = ["plan_retrieval", "retrieve_candidates"]

SUMMARY_DEADLINE_S = 5.0
"""A run that failed because its output is out of reach should not wait for it a second time."""

PIECES_EACH = 2
"""Pieces for every scan that runs at once: the last ones do not leave the others idle for long."""

_log = logging.getLogger("lakevec")


@dataclass(slots=True)
class _Report:
    """What `summary.json` is made of; filled in as the run goes on."""

    run_id: str
    job: str
    config: RetrieveConfig
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    message: str | None = None
    counts: dict[str, int] = field(default_factory=lambda: {"queries": 0, "documents": 0, "candidates": 0})

    def document(self, exit_code: ExitCode) -> dict[str, Any]:
        finished_at = datetime.now(UTC)
        total_s = (finished_at - self.started_at).total_seconds()
        return {
            **run_facts(self.run_id, self.job, exit_code, self.message, self.started_at, finished_at),
            "output": self.config.output.path,
            "counts": self.counts,
            "seconds": {"total": round(total_s, 3)},
            "throughput": {"queries_s": round(self.counts["queries"] / total_s, 3) if total_s > 0 else 0.0},
            **config_facts(self.config),
        }


def retrieve_candidates(config: RetrieveConfig, job: str) -> ExitCode:
    """Run the job to its end, write `summary.json`, and return the exit code.

    Raises LakevecError for what the user must mend; its exit code is in the summary too.
    """
    report = _Report(new_run_id(), job, config)
    exit_code = ExitCode.FAILED
    stop = StopRequest()
    with listen_for_stop(stop) as listen_again:
        try:
            _retrieve(report, stop, listen_again)
            exit_code = ExitCode.COMPLETE
        except IncompleteError:
            exit_code, report.message = stop.exit_code, f"{stop.reason}: these lists are not whole, run again for such"
            raise IncompleteError(report.message) from None
        except LakevecError as error:
            exit_code, report.message = error.exit_code, str(error)
            raise
        except KeyboardInterrupt:
            exit_code = ExitCode.INTERRUPTED
            raise
        except Exception as error:
            report.message = scrub(f"{type(error).__name__}: {error}")
            raise
        finally:
            _leave(report, exit_code)
    return exit_code


def plan_retrieval(config: RetrieveConfig) -> str:
    """What the job would do, without doing it."""
    retrieval, queries = open_retrieval(config)
    blocks = -(-queries.n_rows // retrieval.block_rows(queries.spec.dim or 1))
    stored_bytes = sum(entry.bytes for entry in retrieval.corpus.files)
    spec, again = retrieval.scan.spec, retrieval.rescore
    lines = [
        f"{queries.n_rows} queries × {retrieval.corpus.n_rows} documents in {len(retrieval.corpus.files)} files",
        f"scanned column: {spec.name} ({spec.dtype}, dim {spec.dim}); the best {retrieval.scan.k} of each query"
        + (
            f", ranked again by {again.name} ({again.dtype}, dim {again.dim}), of which {retrieval.k} are kept"
            if again
            else ""
        ),
        f"passes over the corpus: {blocks}, each of at most {stored_bytes / (1 << 20):.1f} MiB",
    ]
    return "\n".join(lines)


def _retrieve(report: _Report, stop: StopRequest, listen_again: Callable[[], None]) -> None:
    config = report.config
    check_lasting(config.output.path, uploaded=uploaded_working_dir())
    store = open_store(config.output.path, config.fetch.storage_options)
    check_reachable(store)
    retrieval, queries = open_retrieval(config)
    report.counts["documents"] = retrieval.corpus.n_rows
    _log.info(
        "run %s: %d queries, %d documents in %d files", report.run_id, queries.n_rows, retrieval.corpus.n_rows,
        len(retrieval.corpus.files),
    )  # fmt: skip
    with (
        ray_session(ResourcesConfig(address=config.resources.address)) as cluster,
        CandidateFiles(store, report.run_id, _metadata(report, retrieval), config.output.trec) as files,
    ):
        listen_again()
        check_shared_paths(store, _local(retrieval.corpus.store), cluster.node_ids, report.run_id)
        with stop.patiently():
            for ids, found in _answers(retrieval, queries, cluster, config.resources.cpus_per_scan, stop):
                files.write(candidates_of(found, ids))
                report.counts |= {"queries": report.counts["queries"] + len(ids), "candidates": files.n_rows}
                _log.info("run %s: %d of %d queries answered", report.run_id, report.counts["queries"], queries.n_rows)
            files.finish()


def _answers(
    retrieval: Retrieval, queries: QueryVectors, cluster: Cluster, cpus_each: float, stop: StopRequest
) -> Iterator[tuple[pa.Array, pa.Table]]:
    at_once = tasks_at_once(cluster, cpus_each)
    pieces = cut_pieces(retrieval.corpus.files, at_once * PIECES_EACH)
    workers = partial(scan_tasks, cpus_each=cpus_each, at_once=at_once, check=stop.check)
    for ids, vectors in queries.blocks(retrieval.block_rows(queries.spec.dim or 1)):
        yield ids, retrieval.answer(ids, vectors, pieces, workers)


def _metadata(report: _Report, retrieval: Retrieval) -> dict[str, str]:
    spec, again = retrieval.scan.spec, retrieval.rescore
    facts = {
        "run_id": report.run_id,
        "corpus_run_id": retrieval.corpus.run_id,
        "vector": {"name": spec.name, "dim": spec.dim, "dtype": spec.dtype},
        "rescore": {"name": again.name, "dim": again.dim, "dtype": again.dtype} if again else None,
        "k": retrieval.k,
        "filter": report.config.filter,
    }
    return {f"lakevec.{key}": value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def _local(store: Store) -> list[str]:
    return [store.full("")] if store.is_local else []


def _leave(report: _Report, exit_code: ExitCode) -> None:
    document = report.document(exit_code)
    try:
        store = open_store(report.config.output.path, report.config.fetch.storage_options)
        put_summary(replace(store, deadline_s=SUMMARY_DEADLINE_S), document)
    except Exception as error:  # noqa: BLE001 - the run's own outcome counts, whatever the store makes of its summary
        _log.warning("summary.json could not be written: %s", scrub(f"{type(error).__name__}: {error}"))
        return
    _log.info(
        "%s (exit code %d): %d queries, %d candidates in %.1f s; %s", document["status"], exit_code,
        report.counts["queries"], report.counts["candidates"], document["seconds"]["total"],
        store.uri(summary_path(report.run_id)),
    )  # fmt: skip
