"""TREC lines: what is written is read back, in the same order, by whoever sorts as trec_eval does."""

from __future__ import annotations

import math
from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ManifestError
from pipeline.trec import JudgedPair, RankedPair, qrels_lines, read_qrels, read_run, run_lines

SCORES = st.lists(st.floats(width=32) | st.sampled_from([0.0, 1.0, 1.0 + 1e-9, -1e-45, 3e38, math.inf, -math.inf]))


def as_trec_eval_sorts(pairs: list[RankedPair]) -> list[str]:
    by_id = sorted(pairs, key=attrgetter("doc_id"), reverse=True)
    return [pair.doc_id for pair in sorted(by_id, key=lambda pair: np.float32(pair.score), reverse=True)]


@given(SCORES, st.randoms(use_true_random=False))
def test_sorting_by_score_gives_the_ranks_back(scores: list[float], random: object) -> None:
    ids = [f"d{i}" for i in range(len(scores))]
    random.shuffle(ids)  # type: ignore[attr-defined]
    lines = list(run_lines("q", ids, scores, "tag"))
    assert [line.split()[3] for line in lines] == [str(rank) for rank in range(1, len(ids) + 1)]
    assert as_trec_eval_sorts(list(read_run(lines, "run.trec"))) == ids


@given(st.lists(st.floats(-1e6, 1e6, width=32), unique=True))
def test_scores_that_fall_are_written_as_they_are(scores: list[float]) -> None:
    falling = sorted(scores, reverse=True)
    pairs = read_run(run_lines("q", [f"d{i}" for i in range(len(scores))], falling, "t"), "run.trec")
    assert [np.float32(pair.score) for pair in pairs] == [np.float32(score) for score in falling]


def test_documents_without_a_score_follow_the_one_before() -> None:
    assert [line.split()[4] for line in run_lines("q", ["a", "b"], [math.nan, math.nan], "t")] == [
        "0",
        "-1.40129846e-45",
    ]
    one, none = (float(line.split()[4]) for line in run_lines("q", ["a", "b"], [1.0, math.nan], "t"))
    assert (one, none) == (1.0, pytest.approx(1.0, abs=1e-6))
    assert none < one


@pytest.mark.parametrize("word", ["", "a b", "a\tb", "a\u00a0b", "a\n"])
def test_ids_that_a_column_cannot_hold_are_refused(word: str) -> None:
    for arguments in ((word, ["d"], "t"), ("q", ["d", word], "t"), ("q", ["d"], word)):
        query_id, doc_ids, tag = arguments
        with pytest.raises(ManifestError, match="white space"):
            list(run_lines(query_id, doc_ids, [1.0] * len(doc_ids), tag))
    with pytest.raises(ManifestError, match="white space"):
        list(qrels_lines([JudgedPair("q", word, 1)]))


def test_as_many_scores_as_documents() -> None:
    with pytest.raises(ValueError, match="argument 2 is"):
        list(run_lines("q", ["a", "b"], [1.0], "t"))


WORDS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=8)


@given(st.lists(st.builds(JudgedPair, WORDS, WORDS, st.integers(-2, 4))))
def test_judgements_are_read_back(pairs: list[JudgedPair]) -> None:
    assert list(read_qrels(qrels_lines(pairs), "qrels")) == pairs


def test_a_beir_file_has_tabs_and_ids_with_spaces() -> None:
    lines = ["query-id\tcorpus-id\tscore\n", "q 1\td 1\t2\n", "\n", "q 1\td2\t0\r\n"]
    assert list(read_qrels(lines, "test.tsv")) == [JudgedPair("q 1", "d 1", 2), JudgedPair("q 1", "d2", 0)]


@pytest.mark.parametrize(
    ("read", "lines", "words"),
    [
        (read_run, ["q Q0 d 1 0.5 t", "q Q0 d 0.5 t"], ["run.trec, line 2", "six columns", "found 5"]),
        (read_run, ["q Q0 d 1 high t"], ["line 1", "'high'"]),
        (read_run, ["q Q0 d 1 nan t"], ["line 1", "'nan'"]),
        (read_qrels, ["q 0 d 1", "q d 1"], ["line 2", "4 columns of TREC", "found 3", "header"]),
        (read_qrels, ["q 0 d relevant"], ["line 1", "'relevant'", "whole number"]),
        (read_qrels, ["q 0 d 0.5"], ["'0.5'"]),
        (read_qrels, ["q 0 d 1", f"q 0 e {2**63}"], ["line 2", str(2**63), "64 bits"]),
        (read_qrels, [f"q 0 d {'9' * 5000}"], ["line 1", "whole number"]),
        (read_qrels, ["query-id\tcorpus-id\tscore", "q 0 d 1"], ["line 2", "3 columns of BEIR", "found 1"]),
    ],
)
def test_lines_that_are_none_are_named(read: object, lines: list[str], words: list[str]) -> None:
    with pytest.raises(ManifestError) as caught:
        list(read(lines, "run.trec"))  # type: ignore[operator]
    assert all(word in str(caught.value) for word in words), str(caught.value)
