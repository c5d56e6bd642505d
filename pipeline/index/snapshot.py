"""The snapshot: the one commit that flips the index to its next live set.

In: a claim, a merge plan and what its tasks wrote. Out: the commit. Refused: a plan that leaves items without an
outcome (IncompleteError), files whose rows do not add up to the census (IndexCorruptError).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.config import VectorSpec
from pipeline.errors import IncompleteError, IndexCorruptError
from pipeline.index.claim import Claim
from pipeline.index.commits import Commit, CommitKind, FileEntry, Table
from pipeline.index.merge import MergePlan
from pipeline.index.winners import Census
from pipeline.manifest.arrow_types import plain_type

__all__ = ["carry_info", "commit_snapshot", "kind_info", "require_complete", "spec_info"]


def spec_info(specs: Sequence[VectorSpec], hidden_dim: int) -> list[dict[str, Any]]:
    """The vector specs as commits record them: name, dim (never null) and dtype of each."""
    return [{"name": spec.name, "dim": spec.dim or hidden_dim, "dtype": spec.dtype} for spec in specs]


def kind_info(specs: Sequence[VectorSpec], hidden_dim: int, id_type: pa.DataType) -> dict[str, Any]:
    """What makes rows fit into one table, as commits record it: vector specs and id type."""
    return {"specs": spec_info(specs, hidden_dim), "id_type": str(id_type)}


def carry_info(carry: Sequence[pa.Field]) -> list[list[str]]:
    """The carried columns as snapshots record them: name and type of each, in the table's order.

    Plain types: Arrow counts types as equal that only call members of lists and maps differently, their texts do not.
    """
    return [[field.name, str(plain_type(field.type))] for field in carry]


def require_complete(census: Census) -> None:
    """Raise IncompleteError, naming a few ids, unless every item has an outcome."""
    if census.missing:
        raise IncompleteError(
            f"{census.missing} of {census.items} items have no outcome yet, among them"
            f" {', '.join(census.examples)}; run again to continue"
        )


def commit_snapshot(
    claim: Claim,
    plan: MergePlan,
    merged: Sequence[FileEntry],
    *,
    specs: Sequence[VectorSpec],
    hidden_dim: int,
    id_type: pa.DataType,
    carry: Sequence[pa.Field],
    compute: Mapping[str, Any] | None = None,
) -> Commit:
    """Commit the live set of `plan`, `merged` being the files its tasks returned. Ends the claim.

    `compute` are the facts behind the compute fingerprint (`fingerprint.compute_facts`), for the next run to compare.
    """
    census = plan.census
    require_complete(census)
    live = plan.live_with(merged)
    for table, expected in ((Table.VECTORS, census.vectors), (Table.REJECTS, census.rejects)):
        rows = sum(entry.rows for entry in live if entry.table == table)
        if rows != expected:
            raise IndexCorruptError(
                f"{claim.store.root}: the next {table} files hold {rows} rows, the items call for {expected}"
            )
    info = {
        "items": census.items,
        "ids_digest": census.ids_digest,
        "vectors": census.vectors,
        "rejects": census.rejects,
        "kept_previous": census.kept_previous,
        "carry": carry_info(carry),
        "changes": plan.changes.info(),
        **({"compute": dict(compute)} if compute else {}),
        **kind_info(specs, hidden_dim, id_type),
    }
    return claim.commit(CommitKind.SNAPSHOT, added=plan.added(merged), removed=plan.removed, live=live, info=info)
