"""The library's other front door: an official reranker's dictionary in, scores out, with the job's own preprocessing.

    with Reranker("Qwen/Qwen3-VL-Reranker-2B") as reranker:
        scores = reranker.score({"query": {"text": "a red bicycle"}, "documents": [{"image": "a.jpg"}, {"text": "…"}]})

Media are decoded in processes of their own; this one loads the model. The query is prepared once, and computed once for
all documents that are scored together; a document that is there twice is prepared and scored once. Refused: malformed
dictionaries (ConfigError), and queries and documents that cannot be fetched, decoded, paired or scored (`ScoreError`,
naming each by its place; none is dropped silently).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import DecodeConfig, FetchConfig, ModelConfig
from pipeline.errors import NON_FINITE_SCORE, LakevecError, RejectError
from pipeline.front_door import (
    SLAB_ITEMS,
    FrontDoor,
    caller_policy,
    encoding_failure,
    name_failures,
    named_model,
    with_instruction,
)
from pipeline.official import OfficialItem
from pipeline.prepare_pool import DOCUMENT, QUERY, PreparePool, rerank_makers
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.official import parse_request
from pipeline.rerank.pair import PreparedPair, RerankHalf, pair_halves
from pipeline.rerank.score import scores_of
from pipeline.types import Reject

if TYPE_CHECKING:
    from pipeline.models.reranker import Qwen3VLReranker

__all__ = ["Reranker", "ScoreError"]

HELD_BYTES = 256 << 20
"""Pairs are scored once they hold so much: less than a slab of large images, and thousands of texts, which then share
one computation of the query."""

_Failures = dict[int, Reject]
_OF_QUERY = -1


class ScoreError(LakevecError):
    """Some documents got no score; none did if the query failed.

    `query`: its `Reject` (code and detail), None if it is not to blame. `documents` maps the index of each failed
    document to its own.
    """

    def __init__(self, query: Reject | None, documents: Mapping[int, Reject], n_documents: int) -> None:
        self.query = query
        self.documents = dict(documents)
        places = {"query": query} if query is not None else {}
        places |= {f"documents[{index}]": reject for index, reject in self.documents.items()}
        lost = n_documents if query is not None else len(self.documents)
        super().__init__(f"{lost} of {n_documents} documents got no score: {name_failures(places)}")


class Reranker(FrontDoor[RerankHalf, "Qwen3VLReranker"]):
    """A model ready to score official dictionaries. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "bfloat16",
        instruction: str | None = None,
        device: str = "auto",
        inputs: RerankInputs | None = None,
        fetch: FetchConfig | None = None,
        decode: DecodeConfig | None = None,
        processes: int = 1,
    ) -> None:
        """Load `model` (a folder, a Hugging Face id or `modelscope:<id>`).

        `instruction` is for requests without one, over `inputs.instruction`. `fetch`: what may be read; by default any
        local path and S3, for here the caller names the files. `decode`: what an item's media may cost. `processes`:
        how many decode. Raises ConfigError.
        """
        config = named_model(model, revision, dtype)
        checkpoint = resolve_checkpoint(config)
        self._inputs = with_instruction(inputs or RerankInputs(), instruction)
        make = partial(rerank_makers, checkpoint.folder, self._inputs)
        pool = PreparePool(make, self._inputs, caller_policy(fetch), limits=decode, processes=processes)
        super().__init__(pool, partial(_load, checkpoint, config, device))

    def score(self, request: Mapping[str, Any]) -> NDArray[np.float32]:
        """How well each document of `request` (see `pipeline.rerank.official`) answers its query.

        float32[n], in order: the sigmoids of the `logits`. Raises as `logits` does.
        """
        return scores_of(self.logits(request)).astype(np.float32)

    def logits(self, request: Mapping[str, Any]) -> NDArray[np.float32]:
        """The same as log-odds, float32[n]: they tell documents apart whose scores are both 1.

        Raises ConfigError for a malformed dictionary, and ScoreError if any document got no score.
        """
        self._refuse_closed()
        asked = parse_request(request)
        numbers: dict[OfficialItem, int] = {}
        # A document's own instruction says nothing.
        of = [numbers.setdefault(replace(each, instruction=None), len(numbers)) for each in asked.documents]
        if not of:
            return np.empty(0, np.float32)
        failures: _Failures = {}
        logits = self._distinct(asked.query, list(numbers), failures)
        if failures:
            documents = {
                place: replace(failures[number], id=str(place)) for place, number in enumerate(of) if number in failures
            }
            raise ScoreError(failures.get(_OF_QUERY), documents, len(of))
        return logits[of]

    def _distinct(
        self, query: OfficialItem, documents: Sequence[OfficialItem], failures: _Failures
    ) -> NDArray[np.float32]:
        logits = np.full(len(documents), np.nan, np.float32)
        held: list[tuple[int, PreparedPair]] = []
        held_bytes = 0
        for index, pair in self._pairs(query, documents, failures):
            held.append((index, pair))
            held_bytes += _bytes(pair)
            if held_bytes >= HELD_BYTES:
                self._score(held, logits, failures)
                held, held_bytes = [], 0
        self._score(held, logits, failures)
        return logits

    def _pairs(
        self, query: OfficialItem, documents: Sequence[OfficialItem], failures: _Failures
    ) -> Iterator[tuple[int, PreparedPair]]:
        """The pairs of `documents` by index; what cannot be prepared or paired goes to `failures`."""
        tasks = [(QUERY, query), *((DOCUMENT, each) for each in documents)]
        first: RerankHalf | None = None
        for start in range(0, len(tasks), SLAB_ITEMS):
            for index, half in enumerate(self._pool.prepare(tasks[start : start + SLAB_ITEMS]), start - 1):
                if isinstance(half, Reject):
                    failures[index] = replace(half, id="query") if index == _OF_QUERY else half
                elif index == _OF_QUERY:
                    first = half
                elif first is not None:
                    pair = self._pair(first, half, index)
                    if isinstance(pair, Reject):
                        failures[index] = pair
                    else:
                        yield index, pair

    def _pair(self, query: RerankHalf, document: RerankHalf, index: int) -> PreparedPair | Reject:
        inputs = self._inputs
        try:
            return pair_halves(query, document, max_length=inputs.max_length, over_length=inputs.over_length)
        except RejectError as error:
            return Reject(str(index), error.code, error.detail)

    def _score(
        self, held: Sequence[tuple[int, PreparedPair]], logits: NDArray[np.float32], failures: _Failures
    ) -> None:
        if failures:
            # The call is going to fail: what is still worth doing is finding all that cannot be prepared.
            return
        encoded = self._model.score([pair for _, pair in held])
        indices = np.array([index for index, _ in held], np.int64)
        logits[indices] = encoded.vectors[:, 0]
        problems = encoded.problems
        for row in np.flatnonzero(~np.isfinite(logits[indices])).tolist():
            index = int(indices[row])
            failures[index] = encoding_failure(str(index), problems.get(row), NON_FINITE_SCORE)


def _bytes(pair: PreparedPair) -> int:
    """What a pair holds beside its query."""
    suffix = pair.suffix
    return suffix.input_ids.nbytes + suffix.position_ids.nbytes + sum(visual.frames.nbytes for visual in suffix.visuals)


def _load(checkpoint: Checkpoint, config: ModelConfig, device: str) -> Qwen3VLReranker:
    # Only who makes a Reranker waits for torch, not who imports this module.
    from pipeline.models.reranker import load_reranker

    return load_reranker(checkpoint, config, device=device)
