"""Candidate lists that were found to be some.

In: the config. Out: a `Candidates`: a stream of ranked pairs, and manifests of the texts that came along. Refused with
ManifestError: what the format's own reader refuses; likewise, or with ConfigError, what `listing` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.candidates.beir import beir_corpus, beir_queries, judgements, read_qrels
from pipeline.candidates.json_lists import rankllm_documents, rankllm_queries, read_mmeb, read_rankllm
from pipeline.candidates.listing import CandidateFormat, list_candidates
from pipeline.candidates.pairs import ranked
from pipeline.candidates.parquet_pairs import read_lists, read_pairs
from pipeline.candidates.texts import write_texts
from pipeline.candidates.trec import read_trec
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.readers import Options
from pipeline.rerank.config import CandidatesConfig
from pipeline.userinfo import without_userinfo

__all__ = ["Candidates", "open_candidates"]

_LISTED = (CandidateFormat.LISTS, CandidateFormat.RANKLLM, CandidateFormat.MMEB)
"""Formats of one list a query, whose order is the ranking."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The lists, found but not read. The manifests are Parquet files (`id`, `text`), None if no texts came along."""

    config: CandidatesConfig
    options: Options
    format: CandidateFormat
    files: tuple[ManifestFile, ...]
    queries_manifest: str | None
    documents_manifest: str | None

    def batches(self) -> Iterator[pa.Table]:
        """The pairs in batches of `pairs.CANDIDATES`: query by query, each by first-stage rank, `top_k` of each.

        Reads and sorts all files on local disk before the first batch, again in every call. Raises ManifestError.
        """
        source = without_userinfo(self.config.path or str(self.config.beir))
        return ranked(self._raw(), top_k=self.config.top_k, one_list_each=self.format in _LISTED, source=source)

    def _raw(self) -> Iterator[pa.RecordBatch]:
        if self.format is CandidateFormat.PAIRS:
            return read_pairs(self.files, self.config.columns, self.options)
        if self.format is CandidateFormat.LISTS:
            return read_lists(self.files, self.config.columns, self.options)
        read = {
            CandidateFormat.TREC: read_trec,
            CandidateFormat.BEIR: read_qrels,
            CandidateFormat.RANKLLM: read_rankllm,
            CandidateFormat.MMEB: read_mmeb,
        }[self.format]
        return read(self.files, self.options)


def open_candidates(config: CandidatesConfig, options: Options, scratch: Path) -> Candidates:
    """Find the lists and their format, and write what texts they bring as manifests into the local folder `scratch`.

    Texts come from a BEIR folder (`candidates.path` is one, or `candidates.beir` beside any lists) or with RankLLM
    requests. Raises ManifestError.
    """
    beir = config.beir
    found = CandidateFormat.BEIR
    files: tuple[ManifestFile, ...] = ()
    if config.path is not None:
        found, files = list_candidates(config.path, config.format, config.columns, options)
    if found is CandidateFormat.BEIR:
        beir = config.path or beir
        files = judgements(str(beir), options)
    queries, documents = _texts(found, files, beir, options, scratch)
    return Candidates(config, options, found, files, queries, documents)


def _texts(
    found: CandidateFormat, files: tuple[ManifestFile, ...], beir: str | None, options: Options, scratch: Path
) -> tuple[str | None, str | None]:
    at = scratch / "queries.parquet", scratch / "documents.parquet"
    if beir is not None:
        queries = write_texts(beir_queries(beir, options), at[0], "query")
        return queries, write_texts(beir_corpus(beir, options), at[1], "document")
    if found is not CandidateFormat.RANKLLM:
        return None, None
    queries = write_texts(rankllm_queries(files, options), at[0], "query")
    listed = rankllm_documents(files, options)
    return queries, None if listed is None else write_texts(listed, at[1], "document")
