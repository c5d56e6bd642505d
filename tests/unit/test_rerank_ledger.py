"""The ledger of a rerank run: what it finds to do, what counts, and in which order pairs stand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import IncompleteError
from pipeline.index.commits import FileEntry
from pipeline.rerank.ledger import Ledger, PairCounts, open_ledger
from pipeline.storage import Store, open_store
from tests.fixtures.score_cases import outcome, reject, wanted, write_outcomes, write_pairs

ATTEMPTS = 3


class Opened(ExitStack):
    """Ledgers over files of one store, closed with the test."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def of(
        self, pairs: Sequence[dict[str, Any]], live: Sequence[FileEntry] = (), parts: Sequence[FileEntry] = ()
    ) -> Ledger:
        ledger = self.enter_context(open_ledger(self.store))
        ledger.load_pairs(write_pairs(self.store, pairs))
        ledger.load_outcomes(live, parts)
        return ledger

    def written(self, *outcomes: dict[str, Any]) -> list[FileEntry]:
        return [write_outcomes(self.store, outcomes)]


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    with Opened(open_store(str(tmp_path))) as ledgers:
        yield ledgers


def ranked(ledger: Ledger) -> list[dict[str, Any]]:
    ledger.rank()
    return [row for batch in ledger.ranked_batches() for row in batch.to_pylist()]


def order(ledger: Ledger) -> list[tuple[str, str, int]]:
    return [(row["query_id"], row["doc_id"], row["rank"]) for row in ranked(ledger)]


def to_do(ledger: Ledger) -> dict[tuple[str, str], int]:
    """Attempts so far of the pairs that are to be scored."""
    rows = ledger.db.execute("SELECT query_id, doc_id, attempts FROM to_do").fetchall()
    return {(query, doc): attempts for query, doc, attempts in rows}


def test_counts_tell_every_kind_of_pair(opened: Opened) -> None:
    live = opened.written(
        outcome("q", "same", 1.0),
        outcome("q", "changed", 1.0, "old"),
        outcome("q", "gone", 1.0),
        reject("q", "again"),
        reject("q", "fatal", "OVER_LENGTH"),
        reject("q", "tired", attempts=ATTEMPTS),
    )
    parts = opened.written(outcome("q", "saved", 1.0), outcome("q", "changed_saved", 1.0), outcome("x", "other", 1.0))
    names = ["same", "changed", "again", "fatal", "tired", "saved", "changed_saved", "fresh"]
    pairs = [wanted("q", name, first) for first, name in enumerate(names, start=1)]
    ledger = opened.of([*pairs, wanted("p", "nobody", 1, None)], live, parts)
    counts = ledger.count(ATTEMPTS)
    assert counts == PairCounts(
        items=9, new=1, changed=1, retryable=1, deleted=1, resumed=2, unknown=1, queries=2, documents=9
    )
    assert (counts.to_do, counts.unchanged) == (3, 3)
    assert counts.as_dict()["unchanged"] == 3
    assert to_do(ledger) == {("q", "changed"): 0, ("q", "again"): 1, ("q", "fresh"): 0}
    assert ledger.missing() == {("q", "changed"), ("q", "fresh")}


def test_a_retryable_pair_is_tried_once_a_run_until_it_had_all_its_attempts(opened: Opened) -> None:
    pairs = [wanted("q", "d", 1)]
    live = opened.written(reject("q", "d", attempts=1))
    for attempts in (2, 3):
        before = opened.of(pairs, live)
        assert before.count(ATTEMPTS).retryable == 1
        assert to_do(before) == {("q", "d"): attempts - 1}
        part = opened.written(reject("q", "d", attempts=attempts))
        after = opened.of(pairs, live, part)
        assert (after.count(ATTEMPTS).to_do, after.count(ATTEMPTS).resumed) == (0, 1)
        assert [row["attempts"] for row in ranked(after)] == [attempts]
        assert not after.is_live()  # or the attempt would never count
        live = part
    assert opened.of(pairs, live).count(ATTEMPTS).to_do == 0


def test_rejects_of_a_code_are_tried_again_when_told(opened: Opened) -> None:
    pairs = [wanted("q", name, first) for first, name in enumerate(["gone", "long", "tired", "good"], start=1)]
    live = opened.written(
        reject("q", "gone", "NOT_FOUND", attempts=1),
        reject("q", "long", "OVER_LENGTH"),
        reject("q", "tired", attempts=ATTEMPTS),
        outcome("q", "good", 1.0),
    )
    ledger = opened.of(pairs, live)
    assert ledger.count(ATTEMPTS, ["NOT_FOUND", "FETCH_FAILED"]).retryable == 2
    assert to_do(ledger) == {("q", "gone"): 1, ("q", "tired"): ATTEMPTS}
    tried = opened.of(pairs, live, opened.written(reject("q", "gone", "NOT_FOUND", attempts=2)))
    assert tried.count(ATTEMPTS, ["NOT_FOUND"]).to_do == 0, "once a run"


def test_what_was_written_last_counts_but_a_score_stays_one(opened: Opened) -> None:
    live = opened.written(reject("q", "d", attempts=1), outcome("q", "e", 1.0))
    first, second = opened.written(reject("q", "d", attempts=2)), opened.written(outcome("q", "d", 5.0))
    pairs = [wanted("q", "d", 1), wanted("q", "e", 2)]
    assert [row["logit"] for row in ranked(opened.of(pairs, live, [*first, *second]))] == [5.0, 1.0]
    last = opened.written(reject("q", "d", attempts=3), reject("q", "e"))
    assert [row["logit"] for row in ranked(opened.of(pairs, live, [*first, *second, *last]))] == [5.0, 1.0]
    (row,) = ranked(opened.of(pairs[:1], live, first))
    assert (row["attempts"], row["status"]) == (2, "rejected")


def test_an_outcome_of_other_contents_counts_for_nothing(opened: Opened) -> None:
    ledger = opened.of([wanted("q", "d", 1, "new")], opened.written(outcome("q", "d", 9.0, "old")))
    with pytest.raises(IncompleteError, match="q × d"):
        ledger.rank()


def test_the_first_stage_is_this_run_s_whatever_the_outcome_remembers(opened: Opened) -> None:
    live = opened.written(outcome("q", "d", 1.0, first_stage_rank=7, first_stage_score=0.1))
    (row,) = ranked(opened.of([wanted("q", "d", 2, first_stage_score=0.9)], live))
    assert (row["first_stage_rank"], row["first_stage_score"]) == (2, 0.9)


def test_an_unknown_pair_says_which_side_is_in_no_manifest(opened: Opened) -> None:
    ledger = opened.of([wanted("q", "d", 1, None)])
    (row,) = ranked(ledger)
    assert (row["status"], row["code"], row["detail"]) == ("rejected", "UNKNOWN_ID", "the document is in no manifest")
    assert (row["retryable"], row["attempts"], row["score"]) == (False, 0, None)
    assert ledger.rejects_by_code() == {"UNKNOWN_ID": 1}


def test_a_table_is_live_until_anything_in_it_changes(opened: Opened) -> None:
    pairs = [wanted("q", "d", 1), wanted("q", "e", 2), wanted("q", "f", 3)]
    first = opened.of(pairs, (), opened.written(outcome("q", "d", 1.0), outcome("q", "e", 2.0), reject("q", "f")))
    live = opened.written(*ranked(first))

    def is_live(changed: Sequence[dict[str, Any]], *parts: FileEntry) -> bool:
        ledger = opened.of(changed, live, parts)
        ledger.rank()
        return ledger.is_live()

    assert is_live(pairs)
    assert not is_live(pairs[:2])
    assert not is_live([*pairs, wanted("q", "g", 4, None)])
    assert not is_live([pairs[0], pairs[1], pairs[2] | {"first_stage_score": None}])
    assert not is_live([pairs[0] | {"first_stage_rank": 2}, pairs[1] | {"first_stage_rank": 1}, pairs[2]])
    assert not is_live(pairs, *opened.written(outcome("q", "f", 0.0)))


@settings(max_examples=10)
@given(data=st.data())
def test_ranks_go_by_logit_then_first_stage_and_the_unscored_last(data: st.DataObject, tmp_path_factory: Any) -> None:
    logits = st.none() | st.sampled_from([-1.5, 0.0, 2.5]) | st.floats(-9, 9, width=32)
    lists = data.draw(st.lists(st.lists(logits, min_size=1, max_size=8), min_size=1, max_size=6))
    pairs, outcomes = [], []
    for number, found in enumerate(lists):
        firsts = data.draw(st.permutations(range(1, len(found) + 1)))
        for doc, (first, logit) in enumerate(zip(firsts, found, strict=True)):
            pairs.append(wanted(f"q{number}", f"d{doc}", first))
            outcomes.append(
                reject(f"q{number}", f"d{doc}") if logit is None else outcome(f"q{number}", f"d{doc}", logit)
            )
    expected = []
    for number in range(len(lists)):
        mine = [(o.get("logit"), p) for p, o in zip(pairs, outcomes, strict=True) if p["query_id"] == f"q{number}"]
        mine.sort(key=lambda each: (each[0] is None, -np.float32(each[0] or 0), each[1]["first_stage_rank"]))
        expected += [(p["query_id"], p["doc_id"], rank) for rank, (_, p) in enumerate(mine, start=1)]
    with Opened(open_store(str(tmp_path_factory.mktemp("ledger")))) as ledgers:
        shuffled = data.draw(st.permutations(outcomes))
        assert order(ledgers.of(pairs, (), ledgers.written(*shuffled))) == expected
