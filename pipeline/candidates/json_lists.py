"""Candidates in JSON Lines, a query's list a line: RankLLM requests, which bring the texts along, and MMEB predictions.

In: files. Out: batches of `pairs.RAW`, each document's place in its list as its rank, and RankLLM's texts. Refused with
ManifestError, naming file and line: keys that are missing or of another type, documents some of which have texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.candidates.lines import Record, records_of
from pipeline.candidates.pairs import RawPair, batched
from pipeline.errors import ManifestError
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.readers import Options

__all__ = ["TEXT_KEYS", "rankllm_documents", "rankllm_queries", "read_mmeb", "read_rankllm", "titled"]

TEXT_KEYS = ("text", "segment", "contents", "content", "body", "passage")
"""Where RankLLM's documents have their text, first one first: Pyserini's and BEIR's collections differ."""


def read_rankllm(files: Sequence[ManifestFile], options: Options) -> Iterator[pa.RecordBatch]:
    """The pairs of RankLLM requests: `query: {qid, text}, candidates: [{docid, score, doc}]`. Raises ManifestError."""
    yield from batched(pair for file in files for record in records_of(file, options) for pair in _rankllm(record))


def rankllm_queries(files: Sequence[ManifestFile], options: Options) -> Iterator[tuple[str, str]]:
    """Id and text of each request's query. Raises ManifestError."""
    for file in files:
        for record in records_of(file, options):
            query = _query(record)
            yield query.identity("qid"), query.get("text", (str,), "the query's text")


def rankllm_documents(files: Sequence[ManifestFile], options: Options) -> Iterator[tuple[str, str]] | None:
    """Id and text of each candidate, as often as it is listed; None if the first one listed has no `doc`."""
    listed = (candidate for file in files for record in records_of(file, options) for candidate in _candidates(record))
    first = next(listed, None)
    if first is None or not first.values.get("doc"):
        return None
    return ((one.identity("docid"), _text(one)) for start in ((first,), listed) for one in start)


def read_mmeb(files: Sequence[ManifestFile], options: Options) -> Iterator[pa.RecordBatch]:
    """The pairs of MMEB predictions: `prediction: [doc ids, best first]`, with `rerank_scores` if they are there.

    A line names no query: its `query_id` is its number from 0, the query's place in the data set. Raises ManifestError.
    """
    if len(files) > 1:
        raise ManifestError(
            f"MMEB predictions number their queries in each file, and there are {len(files)} ({files[0].uri}, "
            f"{files[1].uri}, …); give one data set's file"
        )
    yield from batched(
        pair for number, record in enumerate(records_of(files[0], options)) for pair in _mmeb(str(number), record)
    )


def titled(record: Record, text: str) -> str:
    """`text` behind the record's `title`, if it has one, with a space between. Raises ManifestError."""
    title = record.get("title", (str,), "a title") if record.values.get("title") else ""
    return f"{title} {text}" if title else text


def _query(record: Record) -> Record:
    return record.within("query", record.get("query", (dict,), "an object with qid and text"))


def _candidates(record: Record) -> Iterator[Record]:
    for candidate in record.get("candidates", (list,), "a list of objects with docid and score"):
        yield record.within("candidates", candidate)


def _rankllm(record: Record) -> Iterator[RawPair]:
    query_id = _query(record).identity("qid")
    for rank, candidate in enumerate(_candidates(record), start=1):
        score = None if candidate.values.get("score") is None else candidate.number("score", "a number")
        yield query_id, candidate.identity("docid"), rank, score


def _mmeb(query_id: str, record: Record) -> Iterator[RawPair]:
    doc_ids = record.get("prediction", (list,), "a list of document ids")
    scores = record.values.get("rerank_scores") or [None] * len(doc_ids)
    if not isinstance(scores, list) or len(scores) != len(doc_ids):
        raise ManifestError(f"{record.place}: expected as many rerank_scores as documents in prediction")
    for rank, (doc_id, score) in enumerate(zip(doc_ids, scores, strict=True), start=1):
        named = Record(record.file, record.line, {"prediction": doc_id, "rerank_scores": score})
        found = None if score is None else named.number("rerank_scores", "numbers")
        yield query_id, named.identity("prediction"), rank, found


def _text(candidate: Record) -> str:
    doc = candidate.get("doc", (dict, str), "the document, as the first one listed has it")
    if isinstance(doc, str):
        return doc
    record = candidate.within("doc", doc)
    key = next((key for key in TEXT_KEYS if key in doc), None)
    if key is None:
        raise ManifestError(
            f"{candidate.place}: document {candidate.identity('docid')!r} has no text; expected one of the keys "
            f"{', '.join(TEXT_KEYS)}; found {', '.join(map(repr, doc))}"
        )
    return titled(record, record.get(key, (str,), "the document's text"))
