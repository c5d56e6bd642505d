"""Publishing scores: parts and live files become one ranked table, by one snapshot commit.

In: the pairs of a run and the files that hold their outcomes. Out: files of the score table, query by query and by
rank, and the same as a TREC run. DuckDB sorts on the driver's disk: a hundred million pairs are some gigabytes there.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TextIO

import pyarrow as pa

from pipeline.errors import ManifestError
from pipeline.index.claim import Claim
from pipeline.index.commits import CommitKind, FileEntry, Table
from pipeline.index.parquet import write_file
from pipeline.rerank.ledger import Ledger, open_ledger
from pipeline.rerank.schema import SCORES
from pipeline.trec import run_lines

__all__ = ["ScoreTable", "publish_scores", "trec_path"]

COMPRESSED = 4
"""Decoded bytes of the score table over those in its files: ids repeat, ranks count up."""

_TAG = "lakevec"

_log = logging.getLogger("lakevec")


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """What is to become live: `live` is what is now, `parts` what was written since."""

    pairs_path: str
    live: Sequence[FileEntry]
    parts: Sequence[FileEntry]
    metadata: dict[str, str]
    target_bytes: int


def publish_scores(table: ScoreTable, claim: Claim, about: dict[str, object]) -> dict[str, int]:
    """Rank and commit; returns the pairs without a score, by code. No commit if the live set is already right.

    Raises IncompleteError if a pair has no outcome, OwnershipError if another run has taken over.
    """
    with open_ledger(claim.store) as ledger:
        ledger.load_pairs(table.pairs_path)
        ledger.load_outcomes(table.live, table.parts)
        ledger.rank()
        rejects = ledger.rejects_by_code()
        if table.live and ledger.is_live():
            return rejects
        live = _write(ledger, table, claim)
    pairs = sum(entry.rows for entry in live)
    info = {"pairs": pairs, "rejects": rejects, **about}
    removed = [entry.path for entry in table.live]
    claim.commit(CommitKind.SNAPSHOT, added=live, removed=removed, live=live, info=info)
    return rejects


def trec_path(run_id: str) -> str:
    """Where a run's TREC file lies, relative to the output."""
    return f"{Table.SCORES}/run={run_id}/run.trec"


def _write(ledger: Ledger, table: ScoreTable, claim: Claim) -> list[FileEntry]:
    schema = SCORES.with_metadata(table.metadata)
    entries: list[FileEntry] = []
    with tempfile.TemporaryDirectory(prefix="lakevec-scores-") as folder:
        local = Path(folder) / "run.trec"
        with local.open("w", encoding="utf-8") as file:
            trec = _Trec(file)
            batches = _followed(ledger.ranked_batches(), trec)
            for group in _files(batches, table.target_bytes * COMPRESSED):
                entries.append(write_file(claim.store, Table.SCORES, claim.run_id, schema, group))
            trec.end()
        if trec.problem is None:
            claim.store.upload(str(local), trec_path(claim.run_id))
        else:
            _log.warning("%s has no run.trec: %s", claim.store.root, trec.problem)
    return entries


def _files(batches: Iterator[pa.RecordBatch], max_bytes: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """`batches` in groups of about `max_bytes`; each is to be used up before the next one."""
    for first in batches:

        def group(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
            total = batch.nbytes
            yield batch
            while total < max_bytes and (following := next(batches, None)) is not None:
                total += following.nbytes
                yield following

        yield group(first)


def _followed(batches: Iterator[pa.RecordBatch], trec: _Trec) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        trec.add(batch)
        yield batch


class _Trec:
    """Writes a run query by query; a list may go on in the next batch."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._query: str | None = None
        self._documents: list[str] = []
        self._scores: list[float] = []
        self.problem: str | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        columns = [batch.column(name).to_pylist() for name in ("query_id", "doc_id", "logit")]
        for query, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
            if query != self._query:
                self.end()
                self._query = query
            for _, document, logit in rows:
                self._documents.append(document)
                self._scores.append(float("nan") if logit is None else logit)

    def end(self) -> None:
        if self._query is not None and self.problem is None:
            try:
                self._file.writelines(
                    f"{line}\n" for line in run_lines(self._query, self._documents, self._scores, _TAG)
                )
            except ManifestError as error:
                self.problem = str(error)
        self._query, self._documents, self._scores = None, [], []
