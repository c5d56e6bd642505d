"""The commits of an index: which files are live and for what, as small JSON documents.

In: a `Commit`, or the bytes of one. Out: the bytes, or the `Commit`. Refused: anything that is not exactly a
commit of this format version (IndexCorruptError): unknown keys, wrong types, paths outside the tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.errors import IndexCorruptError

__all__ = ["TABLE_PATH", "Commit", "CommitKind", "FileEntry", "Table", "dump_commit", "load_commit"]

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# gc deletes by these paths and a reader opens them: one that leaves the tables must not parse.
TABLE_PATH = r"^(vectors|rejects|scores)/run=[A-Za-z0-9._-]+/[A-Za-z0-9_-]+\.parquet$"
_Path = Annotated[str, Field(pattern=TABLE_PATH)]
_RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
_Count = Annotated[int, Field(ge=0)]


class Table(StrEnum):
    """The tables of an output: vectors and rejects of an index, scores of reranked lists."""

    VECTORS = "vectors"
    REJECTS = "rejects"
    SCORES = "scores"


class CommitKind(StrEnum):
    """What a commit does. Only a snapshot changes what readers see."""

    CLAIM = "claim"  # the run owns the index from here on
    PROGRESS = "progress"  # these parts are done: what a resumed run need not do again
    SNAPSHOT = "snapshot"  # the complete live set; ends the run's claim
    RELEASE = "release"  # ends the run's claim and changes nothing


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One immutable Parquet file: where it is, how much it holds, and the SHA-256 (hex) of its bytes."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    table: Table
    path: _Path
    rows: _Count
    bytes: _Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, slots=True)
class Commit:
    """One step of an index's history, at `_log/<seq, 8 digits>.json`.

    `live` is the complete live set and only a snapshot has one; `added` and `removed` (paths) say what changed.
    `created_at` (ISO 8601, UTC) is for people: nothing is decided by it. `info` holds JSON values: of a claim
    who made it, of progress the vector specs, of a snapshot the counts and digests that `verify` checks.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seq: Annotated[int, Field(ge=1)]
    run_id: _RunId
    kind: CommitKind
    fingerprint: str
    created_at: str
    added: tuple[FileEntry, ...] = ()
    removed: tuple[_Path, ...] = ()
    live: tuple[FileEntry, ...] = ()
    info: dict[str, Any] = field(default_factory=dict)
    format: Literal[1] = 1


_COMMIT = TypeAdapter(Commit)


def dump_commit(commit: Commit) -> bytes:
    """`commit` as UTF-8 JSON; the same commit gives the same bytes."""
    return _COMMIT.dump_json(commit, indent=1) + b"\n"


def load_commit(data: bytes, where: str) -> Commit:
    """The commit in `data`; `where` names the file in the IndexCorruptError that anything else raises."""
    try:
        return _COMMIT.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise IndexCorruptError(
            f"{where} is no commit that this version of lakevec reads: {place}: {first['msg']}"
        ) from None
