"""`docs/THREATS.md` and `docs/RELIABILITY.md` name tests that exist, and every threat but one has some."""

from __future__ import annotations

import re

import pytest

from tests.fixtures.jobs import ROOT

REFERENCE = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", ["THREATS.md", "RELIABILITY.md"])
def test_named_tests_exist(page: str) -> None:
    named = REFERENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert named
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.M), f"{path}::{name}"


def test_every_reference_is_read() -> None:
    text = (ROOT / "docs" / "THREATS.md").read_text(encoding="utf-8")
    assert text.count("`tests/") == len(REFERENCE.findall(text))


def test_every_threat_has_four_cells() -> None:
    text = (ROOT / "docs" / "THREATS.md").read_text(encoding="utf-8")
    rows = [line for line in text.split("## Threats")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    assert all(line.count(" | ") == 3 for line in rows), [line for line in rows if line.count(" | ") != 3]
