"""Judgements (qrels): which documents are relevant to a query, and how much.

In: TREC qrels, BEIR `qrels/*.tsv`, or Parquet. Out: a dictionary of dictionaries, as ir-measures takes it. Refused with
ManifestError: a pair that is there twice, a relevance that is no whole number; with ConfigError: a BEIR folder of which
it is not clear which split is meant.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError, ManifestError
from pipeline.evaluation.pairs import read_pairs
from pipeline.evaluation.sources import Options, Source, find_source, is_parquet, lines_of, naming_files
from pipeline.trec import JudgedPair, read_qrels

__all__ = ["Judgements", "read_judgements"]

Judgements = dict[str, dict[str, int]]
"""Relevance by query id and document id."""

_BEIR_FOLDER = "qrels"
_USUAL_SPLIT = "test.tsv"
_VALUES = ("relevance", "score", "rel", "label")


def read_judgements(path: str, options: Options, *, key: str = "qrels") -> Judgements:
    """The judgements at `path`; of a BEIR data set's folder those of its test split. Raises as the module says."""
    source = find_source(path, options, key=key, tables=(_BEIR_FOLDER,))
    judged: Judgements = {}
    for pair in _all_pairs(source):
        documents = judged.setdefault(pair.query_id, {})
        if pair.doc_id in documents:
            raise ManifestError(
                f"{key}: query {pair.query_id!r} with document {pair.doc_id!r} is judged twice; expected each pair once"
            )
        documents[pair.doc_id] = pair.relevance
    if not judged:
        raise ManifestError(f"{key}: {path} holds no judgement")
    return judged


def _all_pairs(source: Source) -> Iterator[JudgedPair]:
    for path in _split(source):
        if is_parquet(path):
            yield from _parquet_pairs(source, path)
        else:
            with naming_files(source, path) as name:
                yield from read_qrels(lines_of(source, path), name)


def _split(source: Source) -> tuple[str, ...]:
    splits = [path for path in source.paths if path.endswith(".tsv")]
    if len(splits) < 2:
        return source.paths
    tests = [path for path in splits if path.rpartition("/")[2] == _USUAL_SPLIT]
    if len(tests) == 1:
        return tuple(tests)
    raise ConfigError(f"{source.key}: {source.store.root} has several splits ({', '.join(splits)}); name one file")


def _parquet_pairs(source: Source, path: str) -> Iterator[JudgedPair]:
    for table, column in read_pairs(source, path, _VALUES):
        grades = table["value"]
        try:
            whole = grades.cast(pa.int64())
        except pa.ArrowInvalid:
            whole = pa.nulls(1)
        if whole.null_count or not pc.all(pc.equal(whole, grades)).as_py():
            raise ManifestError(f"{source.key}: {path}: column {column} has a relevance that is no whole number")
        rows = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), whole.to_pylist(), strict=True)
        yield from (JudgedPair(*row) for row in rows)
