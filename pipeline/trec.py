"""TREC run files: one line a candidate, `query Q0 document rank score tag`.

In: a query's documents, best first. Out: lines. Refused with ManifestError: ids with white space, which the format
cannot hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.errors import ManifestError

__all__ = ["run_lines"]


def run_lines(query_id: str, doc_ids: Sequence[str], scores: Sequence[float], tag: str) -> Iterator[str]:
    """The lines of query `query_id`, without line ends; ranks from 1."""
    for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), 1):
        for each in (query_id, doc_id):
            if each.split() != [each]:
                raise ManifestError(f"{each!r} cannot stand in a TREC file, whose columns are split at white space")
        yield f"{query_id} Q0 {doc_id} {rank} {score:.9g} {tag}"
