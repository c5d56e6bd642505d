"""What a search found, as a table for people or as JSON lines for programs.

In: `Hit`s. Out: a rich table, or one line of JSON a hit. Refused: nothing; a carried value that JSON has no type for is
its text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.search import Hit
from pipeline.speech import plain

__all__ = ["hit_line", "hit_table"]

CELL_CHARS = 60
"""A caption or a URL may be a page long; the JSON has it whole."""


def hit_table(hits: Sequence[Hit]) -> Table:
    """rank, id, score, modality and the carried columns, one row a hit."""
    table = Table("rank", "id", "score")
    for name in hits[0].columns if hits else ():
        table.add_column(name)
    for hit in hits:
        # Text, not str: square brackets in a caption are no markup.
        cells = [Text(_shown(value)) for value in (hit.id, *hit.columns.values())]
        table.add_row(str(hit.rank), cells[0], f"{hit.score:.4f}", *cells[1:])
    return table


def hit_line(hit: Hit) -> str:
    """One JSON object: rank, id, score, and the columns under `columns`."""
    facts = {"rank": hit.rank, "id": hit.id, "score": hit.score, "columns": hit.columns}
    return json.dumps(facts, ensure_ascii=False, default=str)


def _shown(value: object) -> str:
    text = plain(" ".join(str("" if value is None else value).split()))
    return text if len(text) <= CELL_CHARS else f"{text[: CELL_CHARS - 1]}…"
