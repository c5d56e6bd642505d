"""Tables of objects folded to one row an object that is there now, by DuckDB, which spills to disk.

In: records, several an object and in any order. Out: a `Source` sorted by URI, with the columns `uri` and `changed_at`
(the time, where there is no ETag) beside the records' own. What is left out is counted by the reason: `superseded`,
`not_latest`, `delete_marker`, `deleted`, `directory_marker`, `not_media`, `hidden`, `archived`. Folding happens once,
when the first row is asked for, into a temporary Parquet file that goes with the source.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest.layouts.media_names import EXTENSION, HIDDEN, KNOWN
from pipeline.manifest.layouts.s3_tables import roles_of
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.parquet_files import BATCH_ROWS
from pipeline.manifest.readers import reading
from pipeline.manifest.source import Piece
from pipeline.spill import batches_of, fill_table, spilling_database

__all__ = ["ENCODED_INVENTORY", "INVENTORY", "JOURNAL", "LISTING", "Fold", "FoldedSource", "Records"]

Records = Callable[[], Iterator[pa.RecordBatch]]

_GROUP_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class Fold:
    """How records become objects: a query over `records` that adds `uri` and `early`, a reason or null.

    `hides`: names below the prefix that start with `_` or `.` are left out, as in any folder of a manifest.
    """

    query: str
    hides: bool = False


_KEY = "coalesce(TRY(url_decode(replace(key, '+', ' '))), key)"
"""Of a CSV inventory, encoded as an HTML form is. What is no UTF-8 afterwards was never a key, and stays as it is."""

_OF_S3 = "SELECT * REPLACE ({key} AS key), 's3://' || bucket || '/' || {key} AS uri FROM records"

_CURRENT = """
SELECT *, CASE WHEN is_latest = false THEN 'not_latest' WHEN nth > 1 THEN 'superseded'
               WHEN is_delete_marker THEN 'delete_marker' END AS early
FROM (SELECT *, row_number() OVER (PARTITION BY uri ORDER BY coalesce(is_latest, true) DESC,
          last_modified_date DESC NULLS LAST, version_id DESC NULLS LAST, e_tag, size) AS nth
      FROM ({named}))
"""

_REPLAYED = f"""
WITH named AS ({_OF_S3.format(key="key")}),
ends AS (
    SELECT *,
        row_number() OVER (PARTITION BY uri, version_id ORDER BY sequence_number DESC) AS nth,
        max(CASE WHEN record_type = 'CREATE' OR is_delete_marker THEN sequence_number END)
            OVER (PARTITION BY uri, version_id) AS made,
        min(CASE WHEN record_type = 'DELETE' THEN sequence_number END) OVER (PARTITION BY uri, version_id) AS first_end
    FROM named
),
ranked AS (
    SELECT *, record_type = 'DELETE' AND (NOT coalesce(is_delete_marker, false)
            OR coalesce(nullif(version_id, 'null') IS NOT NULL AND first_end < sequence_number, false)) AS gone,
        row_number() OVER (PARTITION BY uri, nth > 1 ORDER BY gone, made DESC NULLS LAST,
            last_modified_date DESC NULLS LAST, sequence_number DESC) AS place
    FROM ends
)
SELECT *, CASE WHEN nth > 1 OR place > 1 THEN 'superseded' WHEN gone THEN 'deleted'
               WHEN record_type = 'DELETE' THEN 'delete_marker' END AS early
FROM ranked
"""  # noqa: S608 - texts of ours
"""The newest record of each version says whether that version is there; the version made last is the current one.

So a change to an old version's tags, or its removal, leaves the current one as it is. A version made before the journal
began has no CREATE and is older than any that has. A delete marker deleted for good is a second DELETE of its version.
"""

INVENTORY = Fold(_CURRENT.format(named=_OF_S3.format(key="key")))
ENCODED_INVENTORY = Fold(_CURRENT.format(named=_OF_S3.format(key=_KEY)))
JOURNAL = Fold(_REPLAYED)
LISTING = Fold("SELECT *, NULL AS early FROM records", hides=True)

_HIDDEN_PART = r"(^|/)(\.|_[^/]*/)"
"""Not names with `_` in front: cameras write `_DSC1234.jpg`."""

_ARCHIVED = """
(storage_class IN ('GLACIER', 'DEEP_ARCHIVE') OR (storage_class = 'INTELLIGENT_TIERING' AND
 replace(upper(intelligent_tiering_access_tier), ' ', '_')
     IN ('ARCHIVE', 'ARCHIVE_ACCESS', 'DEEP_ARCHIVE', 'DEEP_ARCHIVE_ACCESS')))
"""
"""GLACIER_IR and the instant tiers answer a GET at once."""


class FoldedSource:
    """The objects of a lake. `columns` are those that records have; `path` is what messages call it."""

    def __init__(
        self, path: str, files: Sequence[ManifestFile], schema: pa.Schema, columns: Collection[str], fold: Fold,
        records: Records,
    ) -> None:  # fmt: skip
        self.files = tuple(files)
        self.csv = False
        self.skipped: Counter[str] = Counter()
        self.roles: Mapping[str, str] = roles_of(columns)
        added = [("uri", pa.string()), ("changed_at", pa.timestamp("us"))]
        self._out = pa.schema([*(one for one in schema if one.name in columns and one.name != "uri"), *added])
        self.schemas: Mapping[str, pa.Schema] = {path: self._out}
        self._path = path
        self._schema = schema
        self._fold = fold
        self._records = records
        self._made: Path | None = None

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        """As `Source.pieces`. Raises ManifestError."""
        first_row = 0
        objects = pq.ParquetFile(self._folded())
        for batch in objects.iter_batches(BATCH_ROWS, columns=list(dict.fromkeys(names))):
            yield Piece(self._path, range(first_row, first_row + batch.num_rows), pa.Table.from_batches([batch]))
            first_row += batch.num_rows

    def _folded(self) -> Path:
        if self._made is None:
            folder = tempfile.mkdtemp(prefix="lakevec-manifest-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            path = Path(folder) / "objects.parquet"
            with spilling_database() as db, reading(self._path):
                fill_table(db, "records", self._schema, self._records())
                self._sort(db, path)
            self._made = path
        return self._made

    def _sort(self, db: duckdb.DuckDBPyConnection, path: Path) -> None:
        db.execute(f"CREATE TABLE folded AS {_judged(self._fold, self._schema.names)}")
        counts = "SELECT reason, count(*) FROM folded WHERE reason IS NOT NULL GROUP BY reason"
        self.skipped = Counter(dict(db.execute(counts).fetchall()))
        chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in self._out.names)
        with pq.ParquetWriter(path, self._out, compression="zstd") as out:
            kept = f"SELECT {chosen} FROM folded WHERE reason IS NULL ORDER BY uri"  # noqa: S608 - names quoted
            for batch in batches_of(db, kept):
                out.write_table(pa.Table.from_batches([batch]).cast(self._out), row_group_size=_GROUP_ROWS)


def _judged(fold: Fold, names: Collection[str]) -> str:
    is_media = f"regexp_matches(key, '{KNOWN}')"
    is_hidden = f"regexp_matches(key, '{_HIDDEN_PART}') OR regexp_matches(key, '{HIDDEN}') AND NOT {is_media}"
    hidden = f"WHEN {is_hidden} THEN 'hidden'" if fold.hides else ""
    tier = "" if "intelligent_tiering_access_tier" in names else ", NULL AS intelligent_tiering_access_tier"
    return f"""
    SELECT *, CASE WHEN e_tag IS NULL THEN last_modified_date END AS changed_at, coalesce(early, CASE
        WHEN (key LIKE '%/' OR key LIKE '%\\_$folder$' ESCAPE '\\') AND coalesce(size, 0) = 0 THEN 'directory_marker'
        {hidden}
        WHEN (regexp_matches(key, '{EXTENSION}') OR regexp_matches(key, '{HIDDEN}'))
            AND NOT {is_media} THEN 'not_media'
        WHEN {_ARCHIVED} THEN 'archived' END) AS reason
    FROM (SELECT *{tier} FROM ({fold.query}))
    """  # noqa: S608 - texts of ours
