"""The whole rerank job: scores as one by one, ranks, what bad inputs cost, and what runs after others have to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.index.log import Log
from pipeline.index.verify import verify
from pipeline.rerank.pair import PreparedPair
from pipeline.storage import Store, open_store
from pipeline.trec import read_run
from tests.fixtures.jobs import last_summary, run_job, start_job, write_config
from tests.fixtures.lists import RERANK_JOB, read_scores, rerank_config, write_lists
from tests.fixtures.ray_head import RayHead
from tests.fixtures.rerank import listed_pairs, stock_logits, tiny_reranker
from tests.fixtures.tiny_model import tiny_model

pytestmark = pytest.mark.ray

MAX_LENGTH = 400
BROKEN, MISSING, LONG = "d3", "d6", "d1"
CODES = {BROKEN: "IMAGE_UNREADABLE", MISSING: "NOT_FOUND", LONG: "OVER_LENGTH", "nobody": "UNKNOWN_ID"}

Pair = tuple[str, str]


@dataclass(frozen=True)
class Finished:
    """A finished run over lists of which some pairs cannot be scored."""

    lists: Path
    folder: Path
    config: Path
    exit_code: int
    out: str

    @property
    def store(self) -> Store:
        return open_store(str(self.folder / "out"))


def candidates(lists: Path, name: str = "lists.parquet") -> list[dict[str, Any]]:
    return list(pq.read_table(lists / name).to_pylist())


def documents(lists: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lists / "documents.jsonl").read_text().splitlines()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spoil(lists: Path) -> None:
    """A broken picture, a missing one, a text too long, and ids in no manifest, each the best of its list."""
    rows = documents(lists)
    write_rows(
        lists / "documents.jsonl", [row | {"text": "river " * 500} if row["id"] == LONG else row for row in rows]
    )
    (lists / f"{BROKEN}.png").write_bytes((lists / f"{BROKEN}.png").read_bytes()[:60])
    (lists / f"{MISSING}.png").unlink()
    pairs = [pair for pair in candidates(lists) if pair["doc_id"] not in CODES]
    best = [{"query_id": f"q{query}", "doc_id": doc, "score": 2.0 + query} for query, doc in enumerate(CODES)] + [
        {"query_id": "q_nobody", "doc_id": doc, "score": score} for doc, score in (("d0", 1.0), ("d2", 0.5))
    ]
    pq.write_table(pa.Table.from_pylist([*best, *pairs]), lists / "lists.parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, ray_head: RayHead) -> Finished:
    folder = tmp_path_factory.mktemp("rerank")
    write_lists(folder / "lists", 6, 12, 7)
    spoil(folder / "lists")
    config = config_over(folder / "lists", folder, ray_head.address)
    done = run_job(config, job=RERANK_JOB)
    return Finished(folder / "lists", folder, config, done.returncode, done.stdout)


def config_over(lists: Path, folder: Path, address: str, **sections: dict[str, Any]) -> Path:
    tight = {"inputs": {"max_length": MAX_LENGTH, "over_length": "reject"}}
    return rerank_config(folder, lists, resources={"address": address}, **tight | sections)


def by_first_stage(pairs: list[dict[str, Any]]) -> dict[str, list[str]]:
    ordered = sorted(pairs, key=lambda pair: (pair["query_id"], -pair["score"]))
    groups = groupby(ordered, key=lambda pair: pair["query_id"])
    return {query: [pair["doc_id"] for pair in group] for query, group in groups}


def one_by_one(pairs: list[PreparedPair]) -> np.ndarray:
    reranker = tiny_reranker(deterministic=True)
    return np.concatenate([reranker.score([pair]).vectors[:, 0] for pair in pairs])


def assert_scores(scores: pa.Table, expected: dict[Pair, float]) -> None:
    """The scored rows of `scores` are those of `expected`, and within each query the greatest comes first."""
    rows = scores.filter(pc.is_valid(scores["logit"])).to_pylist()
    found = {(row["query_id"], row["doc_id"]): row["logit"] for row in rows}
    assert found.keys() == expected.keys()
    logits, wanted = (np.array([by_pair[pair] for pair in expected]) for by_pair in (found, expected))
    # A logit of 10 comes out of float32 sums: the stock model's own lie up to 1.8e-5 from their float64 values.
    assert np.abs(1 / (1 + np.exp(-logits)) - 1 / (1 + np.exp(-wanted))).max() <= 1e-5
    assert np.sqrt(np.mean((logits - wanted) ** 2)) <= 1e-5
    assert np.abs(logits - wanted).max() <= 4e-5
    for _, group in groupby(rows, key=lambda row: row["query_id"]):
        logits = [row["logit"] for row in group]
        assert logits == sorted(logits, reverse=True)


def test_every_pair_has_its_score_or_its_reason(finished: Finished) -> None:
    pairs = candidates(finished.lists)
    scores = read_scores(finished.store)
    assert verify(finished.store) == []
    assert scores.num_rows == len(pairs)
    lists = by_first_stage(pairs)
    rows = scores.to_pylist()
    assert {(row["query_id"], row["doc_id"]): row["first_stage_rank"] for row in rows} == {
        (query, doc): place for query, docs in lists.items() for place, doc in enumerate(docs, start=1)
    }
    assert sum(row["code"] is None for row in rows) == len(pairs) - 6
    for row in rows:
        unknown = row["query_id"] == "q_nobody"
        assert row["code"] == ("UNKNOWN_ID" if unknown else CODES.get(row["doc_id"])), row
        assert row["status"] == ("rejected" if row["code"] else "scored")
        if row["code"]:  # the best of the first stage, and still the last
            assert row["rank"] == (row["first_stage_rank"] if unknown else len(lists[row["query_id"]]))
            assert row["detail"]
    good = [(row["query_id"], row["doc_id"]) for row in rows if row["code"] is None]
    logits = one_by_one(listed_pairs(finished.lists, good))
    assert_scores(scores, dict(zip(good, logits.tolist(), strict=True)))


def test_rejects_decide_the_exit_code_and_the_summary_counts_them(finished: Finished) -> None:
    assert finished.exit_code == 3, finished.out
    n = len(candidates(finished.lists))
    assert f"6 of {n} pairs are rejects" in finished.out
    reports = [file.path for file in finished.store.list("reports") if file.path.endswith("summary.json")]
    summary = json.loads(finished.store.read(min(reports)))
    assert (summary["job"], summary["exit_code"]) == ("rerank_candidates", 3)
    counts = summary["counts"]
    assert (counts["items"], counts["scores"], counts["rejects"], counts["encoded"]) == (n, n - 6, 6, n - 6)
    assert (counts["new"], counts["unknown"]) == (n - 3, 3)
    assert summary["rejects_by_code"] == {"IMAGE_UNREADABLE": 1, "NOT_FOUND": 1, "OVER_LENGTH": 1, "UNKNOWN_ID": 3}


def test_the_trec_run_is_the_table(finished: Finished) -> None:
    (path,) = [file.path for file in finished.store.list("scores") if file.path.endswith("run.trec")]
    run = list(read_run(finished.store.read(path).decode().splitlines(), path))
    run.sort(key=lambda pair: (pair.query_id, -pair.score))
    scores = read_scores(finished.store)
    table = list(zip(scores["query_id"].to_pylist(), scores["doc_id"].to_pylist(), strict=True))
    assert [(pair.query_id, pair.doc_id) for pair in run] == table


def test_a_second_run_does_nothing(finished: Finished) -> None:
    snapshot = Log(finished.store).state().snapshot
    # No cluster answers at this address: nothing to do needs none.
    done = run_job(
        finished.config, "--set", "run.max_reject_fraction=0.5", "--set", "resources.address=127.0.0.1:1",
        job=RERANK_JOB,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert Log(finished.store).state().snapshot == snapshot
    summary = last_summary(finished.store)
    assert summary["counts"]["encoded"] == 0
    assert summary["counts"]["rejects"] == 6


def test_only_what_changed_is_scored_again(finished: Finished, tmp_path: Path, ray_head: RayHead) -> None:
    shutil.copytree(finished.folder / "out", tmp_path / "out")
    before = candidates(finished.lists)
    kept = [pair for pair in before if pair["query_id"] != "q5"]
    listed = {(pair["query_id"], pair["doc_id"]) for pair in kept}
    fresh = [doc for doc in ("d0", "d2", "d4", "d5", "d7", "d8") if ("q1", doc) not in listed][:2]
    added = [{"query_id": "q1", "doc_id": doc, "score": 0.01} for doc in fresh]
    pq.write_table(pa.Table.from_pylist([*kept, *added]), finished.lists / "lists-2.parquet")
    changed = next(doc for doc in ("d2", "d4", "d5") if doc not in fresh)
    rows = [
        row | {"text": "an orchard of violins"} if row["id"] == changed else row for row in documents(finished.lists)
    ]
    write_rows(finished.lists / "documents-2.jsonl", rows)
    config = config_over(
        finished.lists,
        tmp_path,
        ray_head.address,
        documents={"path": str(finished.lists / "documents-2.jsonl")},
        candidates={"path": str(finished.lists / "lists-2.parquet")},
        run={"max_reject_fraction": 1},
    )
    done = run_job(config, job=RERANK_JOB)
    assert done.returncode == 0, done.stdout
    store = open_store(str(tmp_path / "out"))
    again = sum(pair["doc_id"] == changed and pair["query_id"] != "q_nobody" for pair in kept)
    counts = last_summary(store)["counts"]
    assert again > 0
    assert len(added) == 2
    assert (counts["new"], counts["changed"], counts["deleted"]) == (2, again, len(before) - len(kept))
    assert counts["encoded"] == 2 + again
    assert verify(store) == []
    scores = read_scores(store)
    assert scores.num_rows == len(kept) + 2
    good = [(row["query_id"], row["doc_id"]) for row in scores.to_pylist() if row["code"] is None]
    logits = one_by_one(listed_pairs(finished.lists, good, "documents-2.jsonl"))
    assert_scores(scores, dict(zip(good, logits.tolist(), strict=True)))
    old = {(row["query_id"], row["doc_id"]): row["logit"] for row in read_scores(finished.store).to_pylist()}
    new = {(row["query_id"], row["doc_id"]): row["logit"] for row in scores.to_pylist()}
    assert all(new[pair] == old[pair] for pair in new if pair in old and pair[1] != changed)


def test_an_embed_job_leaves_scores_alone(finished: Finished, tmp_path: Path) -> None:
    snapshot = Log(finished.store).state().snapshot
    config = write_config(
        tmp_path,
        manifest={"path": str(finished.lists / "documents.jsonl")},
        output={"path": str(finished.folder / "out")},
        model={"path": str(tiny_model())},
        resources={"address": "127.0.0.1:1"},
    )
    done = run_job(config, timeout_s=200)
    assert done.returncode == 4, done.stdout
    assert Log(finished.store).state().snapshot == snapshot


def wait_for_commit(output: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        if (output / "_log").is_dir() and Log(open_store(str(output))).state().progress:
            return
        time.sleep(0.02)
    raise AssertionError("no progress commit within two minutes")


@pytest.mark.slow
def test_a_killed_run_resumed_equals_an_uninterrupted_one(tmp_path: Path, ray_head: RayHead) -> None:
    write_lists(tmp_path / "lists", 12, 30, 20)
    config = rerank_config(
        tmp_path,
        tmp_path / "lists",
        model={"deterministic": True},
        resources={"address": ray_head.address},
        run={"commit_interval_s": 0.1, "block_items": 8},
    )
    process = start_job(config, job=RERANK_JOB)
    wait_for_commit(tmp_path / "out", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    store = open_store(str(tmp_path / "out"))
    state = Log(store).state()
    assert state.snapshot is None
    saved = sum(entry.rows for entry in state.parts)
    assert 0 < saved < 240

    done = run_job(config, job=RERANK_JOB)
    assert done.returncode == 0, done.stdout
    assert f"{saved} resumed" in done.stdout
    assert last_summary(store)["counts"]["encoded"] == 240 - saved
    assert verify(store) == []
    # Deterministic scores have the same bits in any company: what was resumed is what one process makes at once.
    lists = by_first_stage(candidates(tmp_path / "lists"))
    named = [(query, doc) for query, docs in sorted(lists.items()) for doc in docs]
    logits = tiny_reranker(deterministic=True).score(listed_pairs(tmp_path / "lists", named)).vectors[:, 0]
    first = {pair: lists[pair[0]].index(pair[1]) + 1 for pair in named}
    expected = sorted(zip(named, logits.tolist(), strict=True), key=lambda each: (each[0][0], -each[1], first[each[0]]))
    rows = read_scores(store).to_pylist()
    assert [((row["query_id"], row["doc_id"]), row["logit"]) for row in rows] == expected
    assert [row["first_stage_rank"] for row in rows] == [first[pair] for pair, _ in expected]


@pytest.mark.slow
def test_thirty_lists_of_fifty_equal_the_stock_model_pair_by_pair(tmp_path: Path, ray_head: RayHead) -> None:
    write_lists(tmp_path / "lists", 30, 50, 50)
    config = rerank_config(
        tmp_path,
        tmp_path / "lists",
        resources={"address": ray_head.address},
        run={"block_items": 256},
    )
    done = run_job(config, job=RERANK_JOB, timeout_s=1200)
    assert done.returncode == 0, done.stdout
    store = open_store(str(tmp_path / "out"))
    assert verify(store) == []
    named = [(f"q{query}", f"d{document}") for query in range(30) for document in range(50)]
    logits = stock_logits(listed_pairs(tmp_path / "lists", named))
    assert_scores(read_scores(store), dict(zip(named, logits.tolist(), strict=True)))
