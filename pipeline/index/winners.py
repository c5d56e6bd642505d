"""Which row of an item wins: the rule that makes every item's outcome single over all live files.

In: a `Scratch` with items, carried and outcomes loaded. Out: its tables `kept(file, row, flag, changed, place)`, the
rows that the next snapshot keeps, `copies(file, row, id, flag, place)`, the rows that it has once more for another id,
and a `Census` of both. Refused: nothing; what is missing is counted.

An outcome counts only if its fingerprint is the item's present one. Of the item's own a part beats a live row, a vector
beats a reject, and then the first in commit order wins; a reject that tells of a place (`errors.PLACE_CODES`) is no
better than a live one. Where its fingerprint is shared, outcomes of other ids count too: for an item that has none of
its own, or no better one than those. What tells of another item's place replaces no reject of the item's own, and is
worth a try at the item's own place. If the winner is a reject worth another try and the live index has a vector of the
item, made from an older state of it, that vector stays beside the reject, which says so in `kept_previous`. Everything
else goes, ids that left the manifest included. A vector whose id is in `carried` gets the carried values of that
`place` in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.index.digest import digest_columns, format_digest
from pipeline.index.scratch import Scratch

__all__ = ["Census", "choose_winners"]

# One integer orders an item's candidates and names the winner, so a plain min() finds it and can spill:
# 4 bits rank, 24 bits file, 33 bits row (8 billion), then two flags of the row that do not order anything.
_KEY = """
min((({rank})::BIGINT << 59) + (file::BIGINT << 35) + (row << 2) + (({again})::BIGINT << 1) + kept_previous::BIGINT)
"""
_OWN_RANK = """
CASE WHEN is_part AND is_vector THEN 0 WHEN is_part AND NOT of_place THEN 1 WHEN is_vector THEN 2 WHEN is_part THEN 6
     ELSE 7 END
"""
_OTHERS_RANK = """
CASE WHEN is_part AND is_vector THEN 3 WHEN is_vector THEN 4 WHEN is_part AND NOT of_place THEN 5 ELSE 8 END
"""

_OWN = f"""
CREATE OR REPLACE TABLE own AS
SELECT outcomes.id AS id, {_KEY.format(rank=_OWN_RANK, again="retryable")} AS k
FROM outcomes JOIN items ON outcomes.id = items.id AND outcomes.fingerprint = items.fingerprint
GROUP BY outcomes.id
"""  # noqa: S608 - expressions of ours

# Few: items of equal content beside the one that was embedded. Every outcome of their contents is looked at once.
_BEST = f"""
CREATE OR REPLACE TABLE best AS
WITH needy AS (
    SELECT items.id AS id, items.fingerprint AS fingerprint, own.k AS k
    FROM items LEFT JOIN own ON items.id = own.id
    WHERE items.shared AND (own.k IS NULL OR own.k >> 59 >= 6)
),
others AS (
    SELECT outcomes.fingerprint AS fingerprint, {_KEY.format(rank=_OTHERS_RANK, again="retryable OR of_place")} AS k
    FROM outcomes SEMI JOIN needy ON outcomes.fingerprint = needy.fingerprint
    GROUP BY outcomes.fingerprint
),
keys AS (
    SELECT id, k FROM own WHERE k >> 59 < 6
    UNION ALL
    SELECT own.id, own.k FROM own ANTI JOIN needy ON own.id = needy.id WHERE own.k >> 59 >= 6
    UNION ALL
    SELECT needy.id, least(needy.k, others.k) FROM needy JOIN others ON needy.fingerprint = others.fingerprint
)
SELECT id, (k >> 59) IN (3, 4, 5, 8) AS is_copy, (k >> 59) IN (1, 5, 6, 7, 8) AS is_reject,
       ((k >> 35) & 16777215)::INTEGER AS file, (k >> 2) & 8589934591 AS row,
       (k & 2) > 0 AS retryable, (k & 1) > 0 AS kept_previous
FROM keys
"""  # noqa: S608 - expressions of ours

_KEPT = """
CREATE OR REPLACE TABLE chosen AS
WITH previous AS (
    SELECT outcomes.id AS id, min(outcomes.file) AS file, arg_min(outcomes.row, outcomes.file) AS row
    FROM outcomes JOIN best ON outcomes.id = best.id
    WHERE NOT outcomes.is_part AND outcomes.is_vector AND best.is_reject AND best.retryable
    GROUP BY outcomes.id
)
SELECT best.id AS id, NOT best.is_reject AS is_vector, is_copy, best.file AS file, best.row AS row,
       previous.id IS NOT NULL AS flag,
       best.kept_previous <> (previous.id IS NOT NULL) OR carried.id IS NOT NULL AS changed, carried.place AS place
FROM best
LEFT JOIN previous ON best.id = previous.id
LEFT JOIN carried ON best.id = carried.id AND NOT best.is_reject
UNION ALL
SELECT previous.id, true, false, previous.file, previous.row, false, carried.id IS NOT NULL, carried.place
FROM previous LEFT JOIN carried ON previous.id = carried.id;

CREATE OR REPLACE VIEW kept AS SELECT file, row, flag, changed, place FROM chosen WHERE NOT is_copy;
CREATE OR REPLACE VIEW copies AS SELECT file, row, id, flag, place FROM chosen WHERE is_copy;
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
    for query in (_OWN, _BEST, _KEPT):
        found.db.execute(query)
    items, first, second = _one(found, _ITEMS)
    (winners,) = _one(found, "SELECT count(*) FROM best")
    (rejects,) = _one(found, "SELECT count(*) FROM best WHERE is_reject")
    (kept_previous,) = _one(found, "SELECT count(*) FROM chosen WHERE flag")
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
