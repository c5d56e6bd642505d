"""TREC runs: `qid Q0 docid rank score tag`, parted by spaces or tabs.

In: a file. Out: batches of `pairs.RAW`. Refused with ManifestError, naming file and line: too few fields, ranks and
scores that are no numbers, ranks beyond 64 bits, ids with white space. A tag may be of several words that do not begin
with a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.candidates.lines import lines_of
from pipeline.candidates.pairs import RawPair, batched
from pipeline.errors import ManifestError
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.naming import shown
from pipeline.manifest.readers import Options

__all__ = ["read_trec"]

_FIELDS = 6
_MOST_RANK = 2**63  # of an int64, which columns hold; negative ones reach it


def read_trec(files: Sequence[ManifestFile], options: Options) -> Iterator[pa.RecordBatch]:
    """The pairs of `files` in order. Raises ManifestError."""
    yield from batched(_pair(file, number, line) for file in files for number, line in lines_of(file, options))


def _pair(file: ManifestFile, number: int, line: str) -> RawPair:
    fields = line.split()
    try:
        query_id, _, doc_id, rank, score = fields[: _FIELDS - 1]
        # `doc 7 1 0.5 tag`: the end of an id, taken for the rank, has moved the score to where the tag begins.
        if len(fields) > _FIELDS and _is_number(fields[_FIELDS - 1]):
            raise ValueError
        pair = query_id, doc_id, int(rank), float(score)
    except ValueError:
        raise ManifestError(
            f"line {number} of {file.uri}: expected qid Q0 docid rank score tag; found {shown(line)}"
        ) from None
    if not -_MOST_RANK <= pair[2] < _MOST_RANK:
        raise ManifestError(f"line {number} of {file.uri}: the rank {shown(rank)} takes more than 64 bits")
    return pair


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
