"""CSV manifests: a header line, comma, RFC 4180 quotes, UTF-8.

In: an open CSV file. Out: its column names, and its rows in batches, every cell a string. An unquoted empty cell
is null and a quoted one (`""`) the empty string. Refused (as pyarrow errors): ragged lines, other encodings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as csv

__all__ = ["csv_batches", "csv_names"]

_BLOCK_BYTES = 8 << 20
"""A line must fit into a block; texts of a megabyte do."""


def csv_names(file: BinaryIO) -> list[str]:
    """The names in the header, in order."""
    return list(_reader(file, csv.ConvertOptions()).schema.names)


def csv_batches(file: BinaryIO, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of `columns`, as strings."""
    options = csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        # Writers that quote every field quote the empty ones too: in CSV an empty cell is an absent one.
        quoted_strings_can_be_null=True,
    )
    yield from _reader(file, options)


def _reader(file: BinaryIO, options: csv.ConvertOptions) -> csv.CSVStreamingReader:
    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=options,
    )
