"""`docs/REJECTS.md` is made from the enum, and is never stale."""

from __future__ import annotations

import re

from pipeline.errors import RejectCode
from pipeline.rejects_page import rejects_page
from tests.fixtures.jobs import ROOT


def test_the_page_is_that_of_the_codes() -> None:
    page = (ROOT / "docs" / "REJECTS.md").read_text(encoding="utf-8")
    assert page == rejects_page(), "run: python -m pipeline.rejects_page > docs/REJECTS.md"


def test_every_code_has_one_row() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|.*\|$", rejects_page(), re.M)
    assert sorted(rows) == sorted(RejectCode)
