"""JSON Lines manifests: one object a line, UTF-8.

In: an open file. Out: a schema inferred from every line (a first block that looks like integers must not decide
for the rest), and the rows in batches under that schema. Strings that look like dates stay strings. Refused:
values whose type changes, lines over the limit, other encodings.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.json as json
import pyarrow.types as pt

from pipeline.manifest.arrow_types import is_list

__all__ = ["json_batches", "json_schema"]

_CHUNK_BYTES = 8 << 20
_LINE_MAX_BYTES = 256 << 20
"""pyarrow parses a line as one piece; a longer one is no JSON Lines file."""

_BOM = b"\xef\xbb\xbf"


def json_schema(file: BinaryIO) -> pa.Schema:
    """The schema that holds every line of `file`. Raises pa.ArrowInvalid where types contradict each other."""
    schema = pa.schema([])
    for line, chunk in _chunks(file):
        found = _parse(chunk, None, line).schema
        plain = pa.schema([field.with_type(_without_times(field.type)) for field in found])
        schema = pa.unify_schemas([schema, plain], promote_options="permissive")
    return schema


def json_batches(file: BinaryIO, schema: pa.Schema) -> Iterator[pa.Table]:
    """The lines of `file` as tables of `schema`; other keys are left out."""
    for line, chunk in _chunks(file):
        yield _parse(chunk, schema, line)


def _parse(chunk: bytes, schema: pa.Schema | None, line: int) -> pa.Table:
    _check_utf8(chunk, line)
    unexpected = "infer" if schema is None else "ignore"
    try:
        return json.read_json(
            io.BytesIO(chunk),
            read_options=json.ReadOptions(block_size=len(chunk) + 1, use_threads=False),
            parse_options=json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=unexpected),
        )
    except pa.ArrowInvalid as error:
        if line == 1 and chunk.lstrip().startswith(b"["):
            raise pa.ArrowInvalid(
                "the file is a JSON array; expected one object a line (jq -c '.[]' writes so)"
            ) from None
        # Its rows are those of the chunk.
        raise pa.ArrowInvalid(f"{error} (row 0 is in line {line})") from None


def _check_utf8(chunk: bytes, line: int) -> None:
    # pyarrow takes broken UTF-8 and fails much later, far from the file's name.
    try:
        chunk.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line + chunk.count(b"\n", 0, error.start)
        raise pa.ArrowInvalid(f"line {bad} is no UTF-8: {error.reason} {chunk[error.start]:#04x}") from None


def _chunks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Whole lines, and the number of the first (from 1)."""
    line = 1
    rest = file.read(len(_BOM)).removeprefix(_BOM)
    while block := file.read(_CHUNK_BYTES):
        whole, newline, tail = block.rpartition(b"\n")
        if not newline:
            rest += tail
            if len(rest) > _LINE_MAX_BYTES:
                raise pa.ArrowInvalid(f"a line has more than {_LINE_MAX_BYTES} bytes")
            continue
        chunk, rest = rest + whole + newline, tail
        if chunk.strip():
            yield line, chunk
        line += chunk.count(b"\n")
    if rest.strip():
        yield line, rest


def _without_times(kind: pa.DataType) -> pa.DataType:
    if pt.is_temporal(kind):
        return pa.string()
    if is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pt.is_struct(kind):
        return pa.struct([field.with_type(_without_times(field.type)) for field in kind])
    return kind
