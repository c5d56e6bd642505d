"""Publishing: what a run wrote becomes the next live set, by merges that anybody may carry out and one commit.

In: a `Publication`, a claim, and a function that carries out merge tasks. Out: the snapshot. Refused: items without an
outcome (IncompleteError), a claim that another run has taken over (OwnershipError).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.config import VectorSpec
from pipeline.index.claim import Claim
from pipeline.index.commits import Commit, FileEntry, Table
from pipeline.index.derive import Derivation
from pipeline.index.merge import MergeTask, plan_merge
from pipeline.index.snapshot import commit_snapshot, require_complete
from pipeline.schema import rejects_schema, vectors_schema

__all__ = ["Publication", "publish"]


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to become live: `live` is what is now, `parts` what was written since; and the tables' columns.

    `items_path` and `carried_path` are those of the run's `Plan`, `replaced` and `derivation` as in `plan_merge`,
    `compute` as in `commit_snapshot`.
    """

    items_path: str
    carried_path: str | None
    live: Sequence[FileEntry]
    parts: Sequence[FileEntry]
    specs: Sequence[VectorSpec]
    hidden_dim: int
    carry: Sequence[pa.Field]
    id_type: pa.DataType
    metadata: dict[str, str]
    target_bytes: int
    replaced: Sequence[FileEntry] = ()
    derivation: Derivation | None = None
    compute: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schemas(self) -> dict[Table, pa.Schema]:
        """The two tables' schemas, with the metadata that their files bear."""
        vectors = vectors_schema(self.specs, self.hidden_dim, self.carry, self.id_type, self.metadata)
        return {Table.VECTORS: vectors, Table.REJECTS: rejects_schema(self.id_type, self.metadata)}


def publish(
    publication: Publication, claim: Claim, merge: Callable[[Sequence[MergeTask]], Sequence[FileEntry]]
) -> Commit | None:
    """Merge and commit the snapshot; None if the live set is already right. `merge` returns a file a task, in order.

    Raises IncompleteError if an item has no outcome, OwnershipError if another run has taken over, and what `merge`
    raises.
    """
    plan = plan_merge(
        claim.store,
        publication.items_path,
        publication.live,
        publication.parts,
        schemas=publication.schemas,
        run_id=claim.run_id,
        target_bytes=publication.target_bytes,
        carried_path=publication.carried_path,
        replaced=publication.replaced,
        derivation=publication.derivation,
    )
    require_complete(plan.census)
    if plan.changes_nothing and publication.live and not publication.derivation:
        return None
    return commit_snapshot(
        claim,
        plan,
        merge(plan.tasks),
        specs=publication.specs,
        hidden_dim=publication.hidden_dim,
        id_type=publication.id_type,
        carry=publication.carry,
        compute=publication.compute,
    )
