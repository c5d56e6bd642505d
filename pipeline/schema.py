"""Arrow schemas of everything that is stored or handed between stages. Plain Arrow types, no extension type.

Ids are strings inside a run; the written tables give them back the manifest's own type (string or int64).
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pipeline.config import VectorSpec

__all__ = [
    "CARRY_PREFIX",
    "ITEMS",
    "ITEM_KEYS",
    "MEDIA",
    "PART_ROW",
    "REJECT_FIELDS",
    "VECTOR_FACTS",
    "carried_schema",
    "outcomes_schema",
    "rejects_schema",
    "vector_fields",
    "vectors_schema",
    "work_schema",
]

CARRY_PREFIX = "carry."
"""Carried columns travel under this prefix, so that none can shadow a column of ours; the vectors table drops it."""

MEDIA = pa.list_(
    pa.struct(
        [
            pa.field("kind", pa.string(), nullable=False),  # types.MediaKind
            pa.field(
                "refs",
                pa.list_(
                    pa.struct(
                        [
                            pa.field("uri", pa.string()),  # null: inline in the manifest
                            pa.field("column", pa.string(), nullable=False),
                            pa.field("index", pa.int32(), nullable=False),
                            pa.field("expected", pa.map_(pa.string(), pa.string())),  # what planning knew of the file
                        ]
                    )
                ),
                nullable=False,
            ),
        ]
    )
)
"""An item's media in prompt order, as `types.Media`."""

ITEMS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("carried", pa.uint64()),  # index.carried.CarriedDigests; null if nothing is carried
        pa.field("shared", pa.bool_(), nullable=False),  # items with this fingerprint have one content and one vector
    ]
)
"""Every item of the manifest, one row each: what a snapshot must account for."""

ITEM_KEYS = ("id", "fingerprint")
"""What tells whether an item's outcome is there; the work list has these columns too."""


def carried_schema(carry: Sequence[pa.Field]) -> pa.Schema:
    """The manifest's carried values of items whose stored ones differ: id, then `carry`, prefixed."""
    return pa.schema([pa.field("id", pa.string(), nullable=False), *_prefixed(carry)])


def work_schema(carry: Sequence[pa.Field]) -> pa.Schema:
    """The work list: the items to do, thin, in manifest order. `carry` fields bear the manifest's own names."""
    return pa.schema(
        [
            *(ITEMS.field(name) for name in ITEM_KEYS),
            pa.field("texts", pa.list_(pa.string()), nullable=False),
            pa.field("media", MEDIA, nullable=False),
            pa.field("instruction", pa.string()),
            pa.field("fps", pa.float64()),
            pa.field("max_frames", pa.int32()),
            pa.field("manifest_file", pa.string(), nullable=False),
            pa.field("manifest_row", pa.int64(), nullable=False),
            pa.field("attempts", pa.int32(), nullable=False),
            *_prefixed(carry),
        ]
    )


def _prefixed(carry: Sequence[pa.Field]) -> list[pa.Field]:
    return [field.with_name(CARRY_PREFIX + field.name) for field in carry]


def vector_fields(specs: Sequence[VectorSpec], hidden_dim: int) -> list[pa.Field]:
    """The vector columns: `<name>` as FixedSizeList, and `<name>_scale` (float32) beside an int8 one."""
    fields: list[pa.Field] = []
    for spec in specs:
        dim = spec.dim or hidden_dim
        value = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "binary": pa.uint8()}
        width = dim // 8 if spec.dtype == "binary" else dim
        fields.append(pa.field(spec.name, pa.list_(pa.field("element", value[spec.dtype]), width)))
        if spec.dtype == "int8":
            fields.append(pa.field(f"{spec.name}_scale", pa.float32()))
    return fields


VECTOR_FACTS = [
    pa.field("modality", pa.string()),
    pa.field("n_tokens", pa.int32()),
    pa.field("n_visual_tokens", pa.int32()),
    pa.field("n_frames", pa.int32()),
    pa.field("truncated", pa.bool_()),
]

REJECT_FIELDS = [
    pa.field("stage", pa.string()),
    pa.field("code", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("retryable", pa.bool_()),
    pa.field("attempts", pa.int32()),
    pa.field("kept_previous", pa.bool_()),
]

_FINGERPRINT = pa.field("fingerprint", pa.string(), nullable=False)
_CONTENT_HASH = pa.field("content_hash", pa.string())


def outcomes_schema(specs: Sequence[VectorSpec], hidden_dim: int, carry: Sequence[pa.Field]) -> pa.Schema:
    """What Encode hands to WritePart: one row an item, either with its vectors or with `code` set."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            *vector_fields(specs, hidden_dim),
            *VECTOR_FACTS,
            _FINGERPRINT,
            _CONTENT_HASH,
            *REJECT_FIELDS,
            *_prefixed(carry),
        ]
    )


def vectors_schema(
    specs: Sequence[VectorSpec],
    hidden_dim: int,
    carry: Sequence[pa.Field],
    id_type: pa.DataType,
    metadata: dict[str, str] | None = None,
) -> pa.Schema:
    """The `vectors` table: id, vector columns, facts, fingerprint, content_hash, carried columns."""
    fields = [
        pa.field("id", id_type, nullable=False),
        *vector_fields(specs, hidden_dim),
        *VECTOR_FACTS,
        _FINGERPRINT,
        _CONTENT_HASH,
        *carry,
    ]
    return pa.schema(fields, metadata=metadata)


def rejects_schema(id_type: pa.DataType, metadata: dict[str, str] | None = None) -> pa.Schema:
    """The `rejects` table: id, stage, code, detail, retryable, attempts, kept_previous, fingerprint."""
    fields = [pa.field("id", id_type, nullable=False), *REJECT_FIELDS, _FINGERPRINT]
    return pa.schema(fields, metadata=metadata)


PART_ROW = pa.schema(
    [
        pa.field("table", pa.string(), nullable=False),  # vectors | rejects
        pa.field("path", pa.string(), nullable=False),  # relative to the output
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("ids_digest", pa.string(), nullable=False),
    ]
)
"""The small row a write task returns about each file it wrote."""
