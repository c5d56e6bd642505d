"""summary.json says what a run did, and never a secret."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import ExitCode
from pipeline.storage import open_store
from pipeline.summary import Summary, summary_path, write_summary
from pipeline.tally import Tally

CONFIG = Config.model_validate(
    {
        "manifest": {"path": "m.parquet"},
        "output": {"path": "out"},
        "model": {"path": "model"},
        "fetch": {"storage_options": {"s3": {"secret": "TOPSECRET", "endpoint_url": "http://127.0.0.1:9"}}},
    }
)


def test_every_key_of_the_contract(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), {})
    tally = Tally(items=10, encoded=8, text_tokens=100, visual_tokens=50, prepare_s=4.0, encode_s=3.0)
    tally.forwards, tally.filled = 4.0, 3.0
    summary = Summary("run-1", "embed_corpus", CONFIG, tally=tally, counts={"items": 10, "new": 10})
    summary.seconds["run"] = 5.0
    summary.actors = {"prepare": 4, "encode": 1}
    write_summary(store, summary, ExitCode.INCOMPLETE)
    text = store.read(summary_path("run-1")).decode()
    document = json.loads(text)
    assert set(document) >= {
        "run_id", "job", "exit_code", "status", "started_at", "finished_at", "output", "compute_fingerprint", "counts",
        "rejects_by_code", "skipped", "tokens", "packing", "seconds", "throughput", "bottleneck", "versions", "config",
    }  # fmt: skip
    assert set(document["counts"]) == {
        "items", "new", "changed", "carried", "unchanged", "deleted", "retryable", "resumed", "recomputed",
        "duplicates", "encoded", "vectors", "rejects",
    }  # fmt: skip
    assert document["counts"]["encoded"] == 8
    assert document["exit_code"] == 5
    assert document["throughput"] == {"items_s": 2.0, "tokens_s": 30.0}
    assert document["packing"] == {"forwards": 4, "efficiency": 0.75}
    assert document["bottleneck"] == "encode"  # 3 s of one actor, against 4 s shared by four
    assert "TOPSECRET" not in text
    assert document["config"]["fetch"]["storage_options"]["s3"]["endpoint_url"] == "http://127.0.0.1:9"


def test_a_run_that_did_nothing_has_no_bottleneck() -> None:
    summary = Summary("r", "embed_corpus", CONFIG)
    document = summary.as_dict(ExitCode.COMPLETE, summary.started_at)
    assert document["bottleneck"] is None
    assert document["packing"] == {"forwards": 0, "efficiency": None}
    assert document["throughput"] == {"items_s": 0.0, "tokens_s": 0.0}


def test_codes_of_a_complete_run_are_those_of_its_index() -> None:
    summary = Summary("r", "embed_corpus", CONFIG, counts={"items": 1, "rejects": 0})
    summary.tally.rejects["NOT_FOUND"] = 1  # of an item that another's vector was copied to
    assert summary.as_dict(ExitCode.INCOMPLETE, summary.started_at)["rejects_by_code"] == {"NOT_FOUND": 1}
    summary.rejects_by_code = {}
    assert summary.as_dict(ExitCode.COMPLETE, summary.started_at)["rejects_by_code"] == {}
