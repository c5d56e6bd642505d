"""Candidate lists as files: Parquet parts, and one TREC run beside them.

In: answers (`Found` tables) and the ids of their queries. Out: `candidates/run=<run_id>/part-*.parquet` (query_id,
doc_id, rank, score) and at the very end `run.trec`. Refused (by `trec.run_lines`): a TREC run of ids with white space.
Nothing there is ever overwritten: a run's folder is its own.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.candidate_runs import CANDIDATES_FOLDER, RUN_COPY
from pipeline.retrieval.top_k import ranks
from pipeline.storage import Store
from pipeline.trec import run_lines

__all__ = ["CandidateFiles", "candidates_of"]

TAG = "lakevec"
"""A TREC run's last column: the name of the system."""


def candidates_of(found: pa.Table, query_ids: pa.Array) -> pa.Table:
    """query_id and doc_id (of their own types), rank (int32, from 1) and score (float32) of each row of `found`."""
    return pa.table(
        {
            "query_id": query_ids.take(found.column("query").combine_chunks()),
            "doc_id": found.column("id"),
            "rank": pa.array(ranks(found).astype(np.int32)),
            "score": found.column("score"),
        }
    )


@dataclass(slots=True)
class CandidateFiles:
    """Writes one run's candidates. A context manager; `finish` completes them, leaving without it does not."""

    store: Store
    run_id: str
    metadata: dict[str, str]
    with_trec: bool
    n_rows: int = 0
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=lambda: tempfile.TemporaryDirectory("-lakevec"))
    _trec: IO[str] | None = None
    _parts: int = 0

    @property
    def folder(self) -> str:
        """Where the files lie, relative to the output."""
        return f"{CANDIDATES_FOLDER}/run={self.run_id}"

    def write(self, candidates: pa.Table) -> None:
        """Add a part with the rows of `candidates_of`."""
        local = Path(self._folder.name) / "part.parquet"
        pq.write_table(candidates.replace_schema_metadata(self.metadata), local, compression="zstd")
        self.store.upload(str(local), f"{self.folder}/part-{self._parts:05d}.parquet")
        self._parts += 1
        self.n_rows += candidates.num_rows
        if self._trec:
            self._trec.writelines(f"{line}\n" for line in _lines(candidates))

    def finish(self) -> None:
        """Write the TREC run: the last file, so that its presence says that all parts are there."""
        if self._trec:
            self._trec.close()
            self.store.upload(self._trec.name, f"{self.folder}/{RUN_COPY}")

    def __enter__(self) -> Self:
        if self.with_trec:
            self._trec = (Path(self._folder.name) / "run.trec").open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._trec:
            self._trec.close()
        self._folder.cleanup()


def _lines(candidates: pa.Table) -> list[str]:
    queries, documents = candidates.column("query_id").to_pylist(), candidates.column("doc_id").to_pylist()
    scores, places = candidates.column("score").to_pylist(), candidates.column("rank").to_pylist()
    starts = [row for row, rank in enumerate(places) if rank == 1]
    lines: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(places)], strict=True):
        lines += run_lines(str(queries[start]), [str(each) for each in documents[start:end]], scores[start:end], TAG)
    return lines
