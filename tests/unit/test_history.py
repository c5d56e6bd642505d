from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.index.files import live_files
from pipeline.storage import Store, open_store
from tests.fixtures.histories import said, vector_night, vector_nights


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _json_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_yesterday_is_found_read_restored_and_collected(local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    nights = vector_nights(local, 3)
    assert main(["snapshots", local.root, "--json"]) == 0
    listed = _json_lines(capsys)
    assert [each["seq"] for each in listed] == [night.seq for night in reversed(nights)]
    assert listed[0]["run_id"] == "night3"
    assert listed[0]["rows"] == {"vectors": 2, "rejects": 1}
    assert listed[0]["bytes"] == sum(entry.bytes for entry in nights[2].live)
    assert listed[0]["missing"] == []

    assert main(["files", local.root, "--snapshot", str(nights[0].seq)]) == 0
    assert capsys.readouterr().out.split() == [
        local.uri(entry.path) for entry in live_files(local, snapshot=nights[0].seq)
    ]

    assert main(["restore", local.root, str(nights[0].seq)]) == 0
    assert main(["restore", local.root, str(nights[0].seq + 100)]) == 2
    assert f"no snapshot {nights[0].seq + 100}" in capsys.readouterr().err
    assert main(["snapshots", local.root]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert f"2 vectors, 1 rejects, {listed[2]['bytes']} bytes, restored from {nights[0].seq}" in first

    assert main(["gc", local.root, "--keep", "1", "--dry-run", "--json"]) == 0
    would = _json_lines(capsys)[0]
    assert main(["gc", local.root, "--keep", "1", "--json"]) == 0
    did = _json_lines(capsys)[0]
    assert did == would | {"dry_run": False}
    assert did["dropped"] == [night.seq for night in nights]
    assert not {file.path for file in local.list()} & set(did["files"])
    assert said(local, vector_night(local, 4))[("a", "vectors")] == ("f4", 4, False)


def test_a_collection_keeps_seven_or_what_the_config_says(
    local: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nights = vector_nights(local, 9)
    assert main(["gc", local.root]) == 0
    assert "7 snapshots kept, 2 dropped" in capsys.readouterr().out
    config = tmp_path / "c.yaml"
    config.write_text(f"manifest: {{path: m}}\noutput: {{path: {local.root}}}\nmodel: {{path: m}}\n")
    told = ["--config", str(config), "--set", "run.keep_snapshots=3"]
    assert main(["gc", local.root, *told, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "3 snapshots kept, 4 dropped" in out
    assert local.uri(next(entry.path for entry in nights[3].live if entry.table == "vectors")) in out
    assert main(["gc", local.root, *told]) == 0
    assert "3 snapshots kept, 4 dropped" in capsys.readouterr().out


def test_keeping_none_is_refused(local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    vector_nights(local, 1)
    assert main(["gc", local.root, "--keep", "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err


def test_a_snapshot_with_lost_files_says_so(local: Store, capsys: pytest.CaptureFixture[str]) -> None:
    nights = vector_nights(local, 2)
    local.delete(nights[0].live[0].path)
    assert main(["snapshots", local.root]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("1 of 2 files are gone")


def test_a_place_that_is_no_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["snapshots"], ["gc"]):
        assert main([*command, str(tmp_path)]) == 2
        assert "no lakevec output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
