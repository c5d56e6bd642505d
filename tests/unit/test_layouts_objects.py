"""Objects of a lake: inventories in three formats, journals, prefixes, against oracles in plain Python."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ManifestConfig
from pipeline.errors import ManifestError
from pipeline.manifest.layouts.folding import ENCODED_INVENTORY, JOURNAL, FoldedSource
from pipeline.manifest.layouts.s3_tables import canonical_name, canonical_schema, canonical_table
from pipeline.manifest.manifest import open_manifest
from pipeline.types import MediaKind
from tests.fixtures.lakes import deliver, inventory_table
from tests.fixtures.manifests import carried_of, opened, rows_of, write_parquet

T0 = datetime(2026, 1, 31, 1)

ROWS: list[dict[str, Any]] = [
    {"key": "a/b.jpg", "size": 10, "e_tag": "old", "version_id": "1", "is_latest": False, "last_modified_date": T0},
    {"key": "a/b.jpg", "size": 11, "e_tag": "new-2", "version_id": "2", "is_latest": True, "last_modified_date": T0},
    {"key": "a/Ö +%25 x.MP4", "size": 12, "e_tag": "e", "is_latest": True, "last_modified_date": T0},
    {"key": "hashed/0123abcd", "size": 13, "e_tag": None, "is_latest": True, "last_modified_date": T0},
    {"key": "gone.jpg", "is_latest": True, "is_delete_marker": True, "last_modified_date": T0},
    {"key": "a/", "size": 0, "e_tag": "d", "is_latest": True},
    {"key": "a/notes.json", "size": 5, "e_tag": "j", "is_latest": True},
    {"key": ".DS_Store", "size": 5, "e_tag": "j", "is_latest": True},
    {"key": "cold.jpg", "size": 5, "e_tag": "c", "is_latest": True, "storage_class": "GLACIER"},
    {"key": "colder.jpg", "size": 5, "e_tag": "c", "is_latest": True, "storage_class": "DEEP_ARCHIVE"},
    {"key": "cool.jpg", "size": 5, "e_tag": "c", "is_latest": True, "storage_class": "GLACIER_IR"},
    {
        "key": "tier.jpg", "size": 5, "e_tag": "c", "is_latest": True, "storage_class": "INTELLIGENT_TIERING",
        "intelligent_tiering_access_tier": "ARCHIVE_ACCESS",
    },
    {
        "key": "warm.jpg", "size": 5, "e_tag": "c", "is_latest": True, "storage_class": "INTELLIGENT_TIERING",
        "intelligent_tiering_access_tier": "ARCHIVE_INSTANT_ACCESS",
    },
]  # fmt: skip
KEPT = {
    "s3://lake/a/b.jpg": (("etag", "new-2"), ("size", "11")),
    "s3://lake/a/Ö +%25 x.MP4": (("etag", "e"), ("size", "12")),
    "s3://lake/hashed/0123abcd": (("size", "13"), ("last_modified", "2026-01-31 01:00:00.000000")),
    "s3://lake/cool.jpg": (("etag", "c"), ("size", "5")),
    "s3://lake/warm.jpg": (("etag", "c"), ("size", "5")),
}
SKIPPED = {"archived": 3, "delete_marker": 1, "directory_marker": 1, "not_latest": 1, "not_media": 2}


@pytest.mark.parametrize("kind", ["Parquet", "ORC", "CSV"])
def test_a_delivery_is_read_the_same_in_every_format(tmp_path: Path, kind: str) -> None:
    manifest = opened(deliver(tmp_path / "daily", "2026-01-31-01-00", inventory_table(ROWS), kind), carry=["key"])
    rows = rows_of(manifest)
    assert {row.id: row.identity for row in rows} == KEPT
    assert [row.id for row in rows] == sorted(KEPT)
    assert all(row.media[0].kind is MediaKind.FILE and row.media[0].refs[0].uri == row.id for row in rows)
    assert manifest.skipped == SKIPPED
    assert {f"s3://lake/{key}" for key in carried_of(manifest).column("key").to_pylist()} == set(KEPT)
    assert [one for array in manifest.ids() for one in array.to_pylist()] == sorted(KEPT)


@pytest.mark.parametrize("named", ["", "hive", "hive/dt=*/symlink.txt", "*/manifest.json"])
def test_of_several_deliveries_the_newest_counts(tmp_path: Path, named: str) -> None:
    for i, stamp in enumerate(["2026-01-30-01-00", "2026-02-01-01-00", "2026-01-31-01-00"]):
        deliver(tmp_path / "daily", stamp, inventory_table([{"key": f"{i}.jpg", "size": 1, "e_tag": "e"}]), "Parquet")
    assert [row.id for row in rows_of(opened(tmp_path / "daily" / named))] == ["s3://lake/1.jpg"]


def test_files_of_an_inventory_are_known_by_their_columns(tmp_path: Path) -> None:
    first = [{"key": "a.jpg", "size": 1, "e_tag": "e1", "last_modified_date": T0}]
    second = [{"key": "a.jpg", "size": 1, "e_tag": "e2", "last_modified_date": T0 + timedelta(hours=1)}]
    write_parquet(tmp_path / "1.parquet", inventory_table(second))
    write_parquet(tmp_path / "2.parquet", inventory_table(first))
    manifest = opened(tmp_path)
    assert [dict(row.identity)["etag"] for row in rows_of(manifest)] == ["e2"]
    assert manifest.skipped == {"superseded": 1}


def test_a_manifest_that_is_plain_stays_so_and_a_forced_layout_names_what_lacks(tmp_path: Path) -> None:
    plain = write_parquet(
        tmp_path / "p" / "m.parquet", {"id": ["1"], "text": ["t"], "bucket": ["b"], "key": ["k"], "size": [1]}
    )
    assert [row.id for row in rows_of(opened(plain))] == ["1"]
    for layout, lacking in [
        ("s3_journal", "record_type, sequence_number"), ("binary_file", "path, modificationTime, length"),
        ("img2dataset", "url"), ("prefix", "needs a folder"),
    ]:  # fmt: skip
        with pytest.raises(ManifestError, match=lacking):
            opened(plain, layout=layout)
    journal = write_parquet(tmp_path / "j" / "j.parquet", _journal_table([_record("a", 1, "CREATE")]))
    with pytest.raises(ManifestError, match="s3_journal"):
        opened(journal, layout="s3_inventory")


def test_a_csv_delivery_by_its_symlink_is_refused_with_what_to_name(tmp_path: Path) -> None:
    deliver(tmp_path, "2026-01-31-01-00", inventory_table(ROWS), "CSV")
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        opened(tmp_path / "hive" / "dt=2026-01-31-01-00" / "symlink.txt")


def test_json_lines_called_manifest_json_are_plain(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"id": "1", "text": "t"}\n', encoding="utf-8")
    assert [row.id for row in rows_of(opened(tmp_path / "manifest.json"))] == ["1"]


def test_a_folder_of_media_is_its_own_manifest(tmp_path: Path) -> None:
    media = ("_DSC1.JPG", "b.jpg", "deep/a.MP4")
    for name in (*media, "notes.txt", "._b.jpg", "_SUCCESS", ".thumbs/t.jpg", "_tmp/t.jpg", "out/vectors/run=1/x.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere")
    manifest = open_manifest(ManifestConfig(path=str(tmp_path)), {}, output=str(tmp_path / "out"))
    rows = rows_of(manifest)
    assert [row.id for row in rows] == [str(tmp_path / name) for name in media]
    assert [role for role, _ in rows[0].identity] == ["size", "last_modified"]
    assert (manifest.files, manifest.skipped) == ((), {"hidden": 2, "not_media": 1})


def test_a_folder_without_media_is_refused_as_before(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(ManifestError, match="has no files"):
        opened(tmp_path)
    with pytest.raises(ManifestError, match=r"no objects .*left out: 1 not_media"):
        rows_of(opened(tmp_path, layout="prefix"))


_KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)
@given(st.lists(_KEYS, min_size=1, max_size=20, unique=True))
def test_url_encoded_keys_come_back_as_they_were(keys: list[str]) -> None:
    table = pa.table({"bucket": ["b"] * len(keys), "key": [f"{quote_plus(key)}.jpg" for key in keys]})
    assert set(_folded(table, ENCODED_INVENTORY)) == {f"s3://b/{key}.jpg" for key in keys}


_STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("pppdxxm"), st.integers(0, 9)), max_size=25)


@settings(max_examples=25, deadline=None)
@given(_STEPS, st.booleans(), st.integers(0, 9))
def test_a_journal_replayed_is_the_bucket(steps: list[tuple[str, str, int]], versioned: bool, seed: int) -> None:
    bucket, records = _simulated(steps, versioned)
    if not records:
        return
    shuffled = records + random.Random(seed).sample(records, len(records) // 2)  # delivered twice
    random.Random(seed).shuffle(shuffled)
    assert _folded(_journal_table(shuffled), JOURNAL) == {f"s3://lake/{key}.jpg": tag for key, tag in bucket.items()}


def _simulated(steps: list[tuple[str, str, int]], versioned: bool) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """A bucket through `steps`: put, delete, delete a version for good, change metadata. Current ETags, and records."""
    versions: dict[str, list[tuple[str | None, str | None]]] = {"a": [], "b": []}  # (version, etag; None: marker)
    records: list[dict[str, Any]] = []
    for seq, (key, step, which) in enumerate(steps, 1):
        stack = versions[key]
        version = f"v{seq}" if versioned else None
        if step == "p":
            stack[:] = [*(stack if versioned else []), (version, f"e{seq}")]
            records.append(_record(key, seq, "CREATE", version, f"e{seq}"))
        elif step == "d" and versioned:
            stack.append((version, None))
            records.append(_record(key, seq, "DELETE", version, marker=True))
        elif stack and step in "dx":
            gone, tag = stack.pop(which % len(stack))
            records.append(_record(key, seq, "DELETE", gone, marker=versioned and tag is None))
        elif stack and step == "m":
            touched, tag = stack[which % len(stack)]
            if tag is not None:
                records.append(_record(key, seq, "UPDATE_METADATA", touched, tag))
    current = {key: stack[-1][1] for key, stack in versions.items() if stack}
    return {key: tag for key, tag in current.items() if tag is not None}, records


def _record(
    key: str, seq: int, kind: str, version: str | None = None, tag: str | None = None, *, marker: bool | None = None
) -> dict[str, Any]:
    return {
        "bucket": "lake", "key": f"{key}.jpg", "sequence_number": f"{seq:016x}", "record_type": kind,
        "version_id": version, "is_delete_marker": marker, "e_tag": tag, "size": None if tag is None else 1,
    }  # fmt: skip


def _journal_table(records: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([(name, pa.string()) for name in records[0]])
    for name, kind in (("is_delete_marker", pa.bool_()), ("size", pa.int64())):
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    return pa.Table.from_pylist(records, schema)


def _folded(table: pa.Table, fold: Any) -> dict[str, str]:
    schema = canonical_schema([table.schema], ())
    batches = canonical_table(table, schema).to_batches()
    names = [name for name in schema.names if name in table.column_names]
    source = FoldedSource("lake", (), schema, names, fold, lambda: iter(batches))
    wanted = ["uri", "e_tag"] if "e_tag" in names else ["uri"]
    found = [row for piece in source.pieces(wanted) for row in piece.table.to_pylist()]
    assert source.skipped.total() + len(found) == table.num_rows
    assert Counter(row["uri"] for row in found).most_common(1)[:1] in ([], [(found[0]["uri"], 1)] if found else [])
    return {row["uri"]: row.get("e_tag") for row in found}


def test_names_of_every_format_are_one() -> None:
    names = ["Bucket", "VersionId", "IsDeleteMarker", "ETag", "etag", "e_tag", "IntelligentTieringAccessTier"]
    assert list(map(canonical_name, names)) == [
        "bucket", "version_id", "is_delete_marker", "e_tag", "e_tag", "e_tag", "intelligent_tiering_access_tier",
    ]  # fmt: skip


def test_times_of_every_type_are_one() -> None:
    texts = pa.table({"bucket": ["b"], "key": ["k"], "last_modified_date": ["2026-01-31T01:00:00.000Z"]})
    schema = canonical_schema([texts.schema], ())
    millis = texts.set_column(2, "last_modified_date", pa.array([1769821200000]))
    zoned = texts.set_column(2, "LastModifiedDate", pa.array([T0], pa.timestamp("ns", "UTC")))
    found = {canonical_table(one, schema).column("last_modified_date")[0].as_py() for one in (texts, millis, zoned)}
    assert found == {T0}


def test_a_journal_file_is_recognised(tmp_path: Path) -> None:
    records = [_record("a", 1, "CREATE", None, "e1"), _record("b", 2, "CREATE", None, "e2"), _record("a", 3, "DELETE")]
    pq.write_table(_journal_table(records), tmp_path / "journal.parquet")
    manifest = opened(tmp_path)
    assert [row.id for row in rows_of(manifest)] == ["s3://lake/b.jpg"]
    assert manifest.skipped == {"deleted": 1, "superseded": 1}
