"""Lines of TREC files: runs (`query Q0 document rank score tag`) and judgements (`query 0 document relevance`).

In: lines of text, or ranked documents. Out: rows, or lines that trec_eval reads back in the same order. Refused with
ManifestError, naming the line: what has other columns or no number where one belongs; and ids that hold white space,
which such a line cannot carry.

trec_eval ranks by the score alone, which it holds as a float32, and documents of one score by id, the greatest first;
it ignores the rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ManifestError

__all__ = ["JudgedPair", "RankedPair", "qrels_lines", "read_qrels", "read_run", "run_lines"]

_LARGEST_SCORE = np.float32(1e30)
"""What a greater score is written as: a billion float32 values lie below its negative, room for every later rank."""

_MOST_RELEVANCE = 2**63
"""What measures of judgements compute with is an int64."""

_SPACE = re.compile(r"\s")
_BEIR_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True)
class RankedPair:
    """One line of a run; `score` decides the order."""

    query_id: str
    doc_id: str
    score: float


@dataclass(frozen=True, slots=True)
class JudgedPair:
    """One judgement: 0 or less is not relevant."""

    query_id: str
    doc_id: str
    relevance: int


def run_lines(query_id: str, doc_ids: Sequence[str], scores: Sequence[float], tag: str) -> Iterator[str]:
    """The lines, without line ends, of one query's ranked documents: ranks count from 1 in the order given.

    A score that is not below the one before it as a float32 is written as the next float32 below, so that sorting by
    score gives the ranks back; NaN, which stands for no score, is written likewise (0 at the first rank). Raises
    ManifestError for an id or tag that is empty or holds white space.
    """
    for each in (query_id, *doc_ids, tag):
        _check_word(each)
    above = np.float32(math.inf)
    for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), start=1):
        above = _below(above, score)
        # Nine digits tell any two float32 values apart.
        yield f"{query_id} Q0 {doc_id} {rank} {above:.9g} {tag}"


def qrels_lines(pairs: Iterable[JudgedPair]) -> Iterator[str]:
    """The lines, without line ends, of judgements. Raises ManifestError for an id that is no word."""
    for pair in pairs:
        _check_word(pair.query_id)
        _check_word(pair.doc_id)
        yield f"{pair.query_id} 0 {pair.doc_id} {pair.relevance}"


def read_run(lines: Iterable[str], name: str) -> Iterator[RankedPair]:
    """The pairs of a run's lines; empty lines are left out. `name` is the file, for the ManifestError."""
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 6:
            raise ManifestError(
                f"{name}, line {number}: expected the six columns of a TREC run (query Q0 document rank score tag), "
                f"found {len(words)}"
            )
        yield RankedPair(words[0], words[2], _score(words[4], name, number))


def read_qrels(lines: Iterable[str], name: str) -> Iterator[JudgedPair]:
    """The judgements in the lines of a TREC or BEIR file; empty lines are left out.

    TREC: `query iteration document relevance`. BEIR: a first line `query-id corpus-id score`, then these three, with
    tabs between. `name` is the file, for the ManifestError.
    """
    beir = False
    for number, line in enumerate(lines, start=1):
        stripped = line.rstrip("\r\n")
        if number == 1 and stripped.split() == _BEIR_HEADER:
            beir = True
        elif beir and stripped.strip():
            yield _judged(stripped.split("\t"), [0, 1, 2], "BEIR (query-id, corpus-id, score; tabs)", name, number)
        elif stripped.strip():
            yield _judged(stripped.split(), [0, 2, 3], "TREC qrels (query iteration document relevance)", name, number)


def _judged(words: list[str], places: list[int], expected: str, name: str, number: int) -> JudgedPair:
    if len(words) != places[-1] + 1:
        raise ManifestError(
            f"{name}, line {number}: expected the {places[-1] + 1} columns of {expected}, found {len(words)}; "
            "a BEIR file begins with its header line"
        )
    query_id, doc_id, text = (words[place] for place in places)
    try:
        relevance = int(text)
    except ValueError:
        raise ManifestError(f"{name}, line {number}: the relevance {text!r} is no whole number") from None
    if not -_MOST_RELEVANCE <= relevance < _MOST_RELEVANCE:
        raise ManifestError(f"{name}, line {number}: the relevance {text!r} takes more than 64 bits")
    return JudgedPair(query_id, doc_id, relevance)


def _score(text: str, name: str, number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if math.isnan(score):
        raise ManifestError(f"{name}, line {number}: the score {text!r} is no number")
    return score


def _below(above: np.float32, score: float) -> np.float32:
    if math.isnan(score):
        return np.float32(0) if np.isinf(above) else np.nextafter(above, np.float32(-math.inf))
    wanted = np.float32(min(max(score, -float(_LARGEST_SCORE)), float(_LARGEST_SCORE)))
    return wanted if wanted < above else np.nextafter(above, np.float32(-math.inf))


def _check_word(word: str) -> None:
    if not word or _SPACE.search(word):
        raise ManifestError(
            f"{word!r} cannot stand in a TREC file, whose columns are split at white space; give ids without any, or "
            "use the Parquet table, which holds every id"
        )
