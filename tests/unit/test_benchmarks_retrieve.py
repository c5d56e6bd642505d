"""The retrieval benchmark runs from end to end, and what it compares finds the same documents."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import retrieve


def test_every_arm_finds_the_documents(tmp_path: Path) -> None:
    out = tmp_path / "retrieve.json"
    document = retrieve.main(["--documents", "500", "--dim", "64", "--queries", "5", "--k", "4", "--out", str(out)])
    assert json.loads(out.read_text()) == document
    recall = {name: arm["recall"] for name, arm in document["arms"].items()}
    assert recall["ours float32"] == recall["numpy float32 product and argpartition"] == 1
    assert recall["ours int8"] == recall["ours int8 from Parquet"] >= 0.9
    assert 0.2 <= recall["ours binary"] < 1
