"""Which column of a manifest plays which role, and whether its type can.

In: the schemas of all files and the config. Out: a `Columns`. Refused with ManifestError, naming the column, what
was expected and what was found: missing, misnamed, mistyped or contradicting columns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pt

from pipeline.config import COLUMN_ROLES, ManifestConfig, VectorSpec
from pipeline.errors import ManifestError
from pipeline.manifest.arrow_types import is_list, is_number, is_text, media_type, plain_type
from pipeline.manifest.naming import column_name
from pipeline.schema import vectors_schema
from pipeline.widening import common_type

__all__ = ["CONTENT_ROLES", "IDENTITY_ROLES", "MEDIA_ROLES", "Columns", "match_columns"]

MEDIA_ROLES = ("video", "frames", "image", "file")
"""In prompt order. `file`, either image or video, is a role that layouts give, and no column's name."""

CONTENT_ROLES = ("text", "image", "video", "frames")
IDENTITY_ROLES = ("content_hash", "etag", "size", "version", "last_modified")

_MEDIA = "a URI (string), bytes, struct<bytes, path>, or a list of these"
_Rule = tuple[str, Callable[[pa.DataType], bool]]


@dataclass(frozen=True, slots=True)
class Columns:
    """The manifest's columns: name by role (only roles that some file has), id type, carried fields.

    A carried column without a single value is of type null.
    """

    names: Mapping[str, str]
    id_type: pa.DataType
    carry: tuple[pa.Field, ...]


def match_columns(
    config: ManifestConfig,
    schemas: Mapping[str, pa.Schema],
    *,
    csv: bool,
    vectors: Sequence[VectorSpec],
    roles: Mapping[str, str] | None = None,
) -> Columns:
    """Judge the schemas of the files (by URI). `csv`: every column is a string, and numbers are parsed later.

    `roles`: the layout's own names of roles, which `manifest.columns` overrides. A file may lack any column but the id;
    its rows then have null there. Raises ManifestError.
    """
    names = _names(config, roles or {})
    everywhere = sorted({name for schema in schemas.values() for name in schema.names})
    _refuse_missing(config, names, everywhere, schemas)
    present = {role: name for role, name in names.items() if name in everywhere}
    rules = _csv_rules() if csv else _rules()
    for uri, schema in schemas.items():
        for role, name in present.items():
            _check(uri, schema, role, name, rules.get(role))
    return Columns(present, _id_type(names["id"], schemas), _carried(config, vectors, everywhere, schemas))


def _names(config: ManifestConfig, roles: Mapping[str, str]) -> dict[str, str]:
    names = {role: role for role in COLUMN_ROLES} | dict(roles) | config.columns
    if any(role in config.columns for role in ("image", "video", "frames")):
        names.pop("file", None)  # the user knows which it is
    return names


def _refuse_missing(
    config: ManifestConfig, names: Mapping[str, str], everywhere: Sequence[str], schemas: Mapping[str, pa.Schema]
) -> None:
    for role, name in config.columns.items():
        if name not in everywhere:
            raise ManifestError(
                f"manifest.columns.{role} names {name!r}, which no file has{_nearest(name, everywhere)}"
            )
    for uri, schema in schemas.items():
        if names["id"] not in schema.names:
            raise ManifestError(
                f"{uri} has no column {names['id']!r} (string or integer, one an item)"
                f"{_nearest(names['id'], schema.names)}; set manifest.columns.id"
            )
    if not any(names.get(role) in everywhere for role in (*CONTENT_ROLES, "file")):
        raise ManifestError(
            f"the manifest {config.path} has none of the columns {', '.join(CONTENT_ROLES)}; "
            f"found {', '.join(everywhere)}; say which they are with manifest.columns"
        )


def _rules() -> dict[str, _Rule]:
    media: _Rule = (_MEDIA, lambda kind: media_type(kind) is not None)
    return {
        "id": ("a string or an integer", lambda kind: (is_text(kind) and not pt.is_null(kind)) or pt.is_integer(kind)),
        "text": ("a string or a list of strings", lambda kind: is_text(kind.value_type if is_list(kind) else kind)),
        "image": media,
        "video": media,
        "file": media,
        "frames": ("a list of images (each " + _MEDIA.partition(", or")[0] + ")", _is_frames),
        "instruction": ("a string", is_text),
        "fps": ("a number", is_number),
        "max_frames": ("a number", is_number),
    }


def _csv_rules() -> dict[str, _Rule]:
    return {"frames": ("a list of images, which a CSV cell cannot hold; use Parquet or JSON Lines", lambda _: False)}


def _is_frames(kind: pa.DataType) -> bool:
    media = media_type(kind)
    return pt.is_null(kind) or (media is not None and media.listed)


def _check(uri: str, schema: pa.Schema, role: str, name: str, rule: _Rule | None) -> None:
    if schema.names.count(name) > 1:
        raise ManifestError(f"{uri} has {schema.names.count(name)} columns {name!r}; expected one")
    if rule is None or name not in schema.names:
        return
    expected, holds = rule
    found = schema.field(name).type
    if not holds(plain_type(found)):
        raise ManifestError(f"{column_name(role, name)} of {uri}: expected {expected}; found {found}")


def _id_type(name: str, schemas: Mapping[str, pa.Schema]) -> pa.DataType:
    first: dict[bool, str] = {}
    for uri, schema in schemas.items():
        first.setdefault(bool(pt.is_integer(plain_type(schema.field(name).type))), uri)
    if len(first) > 1:
        raise ManifestError(
            f"{column_name('id', name)} is an integer in {first[True]} and a string in {first[False]}; "
            "expected one type"
        )
    return pa.int64() if True in first else pa.string()


def _carried(
    config: ManifestConfig, vectors: Sequence[VectorSpec], everywhere: Sequence[str], schemas: Mapping[str, pa.Schema]
) -> tuple[pa.Field, ...]:
    # 8 is any dim that packs to whole bytes: only the names of the schema matter here.
    ours = vectors_schema(vectors, 8, (), pa.string()).names
    taken = {name.casefold(): name for name in ours} | {"run": "run=… (a folder that readers take for a column)"}
    for name in config.carry:
        if name not in everywhere:
            raise ManifestError(f"manifest.carry names {name!r}, which no file has{_nearest(name, everywhere)}")
        if name.casefold() in taken:
            raise ManifestError(
                f"manifest.carry names {name!r}, but the vectors table has a column "
                f"{taken[name.casefold()]!r} already; rename it in the manifest or leave it out"
            )
        taken[name.casefold()] = name
    return tuple(_carried_field(name, schemas) for name in config.carry)


def _carried_field(name: str, schemas: Mapping[str, pa.Schema]) -> pa.Field:
    merged, first = pa.null(), ""
    for uri, schema in schemas.items():
        if schema.names.count(name) > 1:
            raise ManifestError(f"{uri} has {schema.names.count(name)} columns {name!r}; expected one")
        if name not in schema.names:
            continue
        found = plain_type(schema.field(name).type)
        both = common_type(merged, found)
        if both is None:
            raise ManifestError(
                f"column {name!r} (carry) is {found} in {uri} and {merged} in {first}; expected one type"
            )
        merged, first = both, first or uri
    return pa.field(name, merged)


def _nearest(name: str, names: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    # `image_id` shares too few letters with `id` for a ratio, and is what was meant all the same.
    close = close or [other for other in folded if name.casefold() in other][:1]
    return f"; did you mean {folded[close[0]]!r}?" if close else f"; it has {', '.join(map(repr, names))}"
