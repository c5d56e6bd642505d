"""BEIR data sets: `corpus.jsonl` {_id, title, text}, `queries.jsonl` {_id, text}, `qrels/*.tsv`.

In: the folder. Out: ids and texts of both sides, and the judged pairs in batches of `pairs.RAW`. Refused with
ManifestError, naming file and line: missing files and keys, lines of qrels that are no judgement; with ConfigError
what cannot be listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline.candidates.json_lists import titled
from pipeline.candidates.lines import lines_of, records_of
from pipeline.candidates.pairs import RawPair, batched
from pipeline.errors import ManifestError
from pipeline.manifest.listing import Format, ManifestFile, file_uri
from pipeline.manifest.naming import shown
from pipeline.manifest.readers import Options
from pipeline.opening import opening
from pipeline.storage import resolve
from pipeline.userinfo import without_userinfo

__all__ = ["beir_corpus", "beir_queries", "judgements", "read_qrels"]

_TEST_SPLIT = "test"
"""The split that BEIR evaluates on; the others are for training."""


def beir_corpus(folder: str, options: Options) -> Iterator[tuple[str, str]]:
    """Id and text of each document, a title in front of its text. Raises ManifestError."""
    for record in records_of(_file(folder, "corpus.jsonl", options), options):
        yield record.identity("_id"), titled(record, record.get("text", (str,), "the document's text"))


def beir_queries(folder: str, options: Options) -> Iterator[tuple[str, str]]:
    """Id and text of each query. Raises ManifestError."""
    for record in records_of(_file(folder, "queries.jsonl", options), options):
        yield record.identity("_id"), record.get("text", (str,), "the query's text")


def judgements(folder: str, options: Options) -> tuple[ManifestFile, ...]:
    """The qrels of the test split, or those of the only other one. Raises ManifestError."""
    fs, path = resolve(folder, options)
    with opening("candidates", f"{folder}/qrels", "list"):
        found = sorted(fs.glob(f"{path}/qrels/*.tsv"))
    test = [one for one in found if one.endswith(f"/{_TEST_SPLIT}.tsv")]
    if not test and len(found) != 1:
        raise ManifestError(
            f"the BEIR folder {without_userinfo(folder)} has {len(found)} files qrels/*.tsv and none is test.tsv; "
            "expected that one, or a single one; set candidates.path to a run and candidates.beir to the folder"
        )
    return tuple(ManifestFile(file_uri(fs, one), Format.CSV) for one in test or found)


def read_qrels(files: Sequence[ManifestFile], options: Options) -> Iterator[pa.RecordBatch]:
    """The judged pairs, relevant or not, in file order. Raises ManifestError.

    They have no score: a relevance that ranked them would decide ties and failures by the answer.
    """
    yield from batched(_pairs(files, options))


def _pairs(files: Sequence[ManifestFile], options: Options) -> Iterator[RawPair]:
    for file in files:
        for number, line in lines_of(file, options):
            fields = line.split("\t")
            if number == 1 and fields[0] == "query-id":
                continue
            if len(fields) != 3:
                raise ManifestError(
                    f"line {number} of {file.uri}: expected query-id, corpus-id and score, parted by tabs; "
                    f"found {shown(line)}"
                )
            yield fields[0], fields[1], None, None


def _file(folder: str, name: str, options: Options) -> ManifestFile:
    fs, path = resolve(folder, options)
    with opening("candidates", f"{folder}/{name}", "list"):
        found = [one for one in (f"{path}/{name}", f"{path}/{name}.gz") if fs.exists(one)]
    if not found:
        raise ManifestError(f"the BEIR folder {without_userinfo(folder)} has no {name}, packed (.gz) or not")
    return ManifestFile(file_uri(fs, found[0]), Format.JSONL)
