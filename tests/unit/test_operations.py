"""docs/OPERATIONS.md and the manifests beside it say what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.storage import open_store
from tests.fixtures.index_cases import Row, finish_run

ROOT = Path(__file__).resolve().parents[2]


def _block(name: str) -> str:
    text = (ROOT / "docs" / "OPERATIONS.md").read_text()
    found = re.search(rf"<!-- {name}: [^\n]*-->\n```python\n(.*?)```", text, flags=re.DOTALL)
    assert found, name
    return found[1]


def test_the_airflow_example_is_python() -> None:
    compile(_block("airflow"), "docs/OPERATIONS.md", "exec")


def test_changes_are_loaded_as_the_page_says(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    first = finish_run(store, "n1", {"a": "f1", "b": "f1", "c": "f1"}, [[Row("a"), Row("b", mark=1), Row("c")]])
    finish_run(store, "n2", {"a": "f1", "b": "f2"}, [[Row("b", "f2", mark=2)]])
    finish_run(store, "n3", {"a": "f1", "b": "f3", "d": "f1"}, [[Row("b", "f3", mark=3), Row("d")]])
    names: dict[str, Any] = {"OUTPUT": store.root, "last_seen": first.seq}
    exec(_block("changes"), names)
    assert dict(names["upserts"].fetchall()) == {"b": [3] * 4, "d": [0] * 4}
    assert names["deletes"].fetchall() == [("c",)]
    with pytest.raises(SystemExit, match="anew"):
        exec(_block("changes"), names | {"last_seen": first.seq - 1})  # no snapshot: collected, or never seen


def test_the_rayjob_runs_the_job_that_is_here() -> None:
    job = yaml.safe_load((ROOT / "configs" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    command = job["spec"]["entrypoint"].split()
    for path in (command[1], command[3]):
        assert (ROOT / Path(path).relative_to("/app")).is_file()
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
