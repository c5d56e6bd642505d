"""Which row of an item wins: the rule that makes every item's outcome single over all live files.

In: a `Scratch` with items, carried and outcomes loaded. Out: its table `kept(file, row, flag, changed, place)`, the
rows that the next snapshot keeps, and a `Census` of it. Refused: nothing; what is missing is counted.

An outcome counts only if its fingerprint is the item's present one. Of those a part beats a live row, a vector
beats a reject, and then the first in commit order wins. If the winner is a reject worth another try and the
live index has a vector of the item, made from an older state of it, that vector stays beside the reject, which
says so in `kept_previous`. Everything else goes, ids that left the manifest included. A kept vector whose id is in
`carried` gets the carried values of that `place` in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.index.digest import digest_columns, format_digest
from pipeline.index.scratch import Scratch

__all__ = ["Census", "choose_winners"]

# One integer orders an item's candidates and names the winner, so a plain min() finds it and can spill:
# 2 bits rank (0 part vector, 1 part reject, 2 live vector, 3 live reject), 24 bits file, 34 bits row (17 billion),
# then two flags of the row that do not order anything.
_BEST = """
CREATE OR REPLACE TABLE best AS
SELECT id, (k >> 60)::INTEGER AS rank, ((k >> 36) & 16777215)::INTEGER AS file,
       (k >> 2) & 17179869183 AS row, (k & 2) > 0 AS retryable, (k & 1) > 0 AS kept_previous
FROM (
    SELECT outcomes.id AS id, min(
        ((CASE WHEN is_part THEN 0 ELSE 2 END + CASE WHEN is_vector THEN 0 ELSE 1 END)::BIGINT << 60)
        + (file::BIGINT << 36) + (row << 2) + (retryable::BIGINT << 1) + kept_previous::BIGINT
    ) AS k
    FROM outcomes JOIN items ON outcomes.id = items.id AND outcomes.fingerprint = items.fingerprint
    GROUP BY outcomes.id
)
"""

_KEPT = """
CREATE OR REPLACE TABLE kept AS
WITH previous AS (
    SELECT outcomes.id AS id, min(outcomes.file) AS file, arg_min(outcomes.row, outcomes.file) AS row
    FROM outcomes JOIN best ON outcomes.id = best.id
    WHERE NOT outcomes.is_part AND outcomes.is_vector AND best.rank % 2 = 1 AND best.retryable
    GROUP BY outcomes.id
)
SELECT best.file AS file, best.row AS row, previous.id IS NOT NULL AS flag,
       best.kept_previous <> (previous.id IS NOT NULL) OR carried.id IS NOT NULL AS changed, carried.place AS place
FROM best
LEFT JOIN previous ON best.id = previous.id
LEFT JOIN carried ON best.id = carried.id AND best.rank % 2 = 0
UNION ALL
SELECT previous.file, previous.row, false, carried.id IS NOT NULL, carried.place
FROM previous LEFT JOIN carried ON previous.id = carried.id
"""

_ITEMS = f"SELECT count(*), {digest_columns('id')} FROM items"  # noqa: S608 - a constant


@dataclass(frozen=True, slots=True)
class Census:
    """The items of the manifest, and what the kept rows say of them. `missing` items have no outcome.

    `ids_digest` is `digest.ids_digest` of all items; `examples` are up to five missing ids.
    """

    items: int
    ids_digest: str
    vectors: int
    rejects: int
    kept_previous: int
    missing: int
    examples: tuple[str, ...]


def choose_winners(found: Scratch) -> Census:
    """Fill the table `kept` of `found` and take the census."""
    assert len(found.files) < 1 << 24, "file numbers have 24 bits"
    found.db.execute(_BEST)
    found.db.execute(_KEPT)
    items, first, second = _one(found, _ITEMS)
    (winners,) = _one(found, "SELECT count(*) FROM best")
    (rejects,) = _one(found, "SELECT count(*) FROM best WHERE rank % 2 = 1")
    (kept_previous,) = _one(found, "SELECT count(*) FROM kept WHERE flag")
    examples = found.db.execute("SELECT id FROM items ANTI JOIN best USING (id) ORDER BY id LIMIT 5").fetchall()
    return Census(
        items=items,
        ids_digest=format_digest(first, second),
        vectors=winners - rejects + kept_previous,
        rejects=rejects,
        kept_previous=kept_previous,
        missing=items - winners,
        examples=tuple(each for (each,) in examples),
    )


def _one(found: Scratch, query: str) -> tuple[int, ...]:
    row = found.db.execute(query).fetchone()
    assert row is not None, "an aggregate always has a row"
    return tuple(int(value) for value in row)
