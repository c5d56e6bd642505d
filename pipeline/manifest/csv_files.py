"""CSV manifests: a header line (or names from elsewhere), comma, RFC 4180 quotes, UTF-8.

In: an open CSV file. Out: its column names, and its rows in batches, every cell a string. An unquoted empty cell
is null, quoted or not. Refused (as pyarrow errors): ragged lines, stray and unclosed quotes, other encodings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as csv

from pipeline.manifest.csv_quotes import CheckedQuotes

__all__ = ["csv_batches", "csv_names"]

_BLOCK_BYTES = 8 << 20
"""A line must fit into a block; texts of a megabyte do."""


def csv_names(file: BinaryIO) -> list[str]:
    """The names in the header, in order."""
    checked = CheckedQuotes(file)
    with _naming_open_cell(checked):
        return list(_reader(checked, csv.ConvertOptions()).schema.names)


def csv_batches(file: BinaryIO, columns: Sequence[str], names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of `columns`, as strings. `names` are those of all columns, of a file without a header line."""
    options = csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
        # Writers that quote every field quote the empty ones too: in CSV an empty cell is an absent one.
        quoted_strings_can_be_null=True,
    )
    checked = CheckedQuotes(file)
    with _naming_open_cell(checked):
        yield from _reader(checked, options, names)


@contextmanager
def _naming_open_cell(file: CheckedQuotes) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        line = file.check.open_line
        # A cell that does not end within a block is a quote too many more often than a text of that size.
        if line is None or "straddl" not in str(error):
            raise
        raise pa.ArrowInvalid(
            f"the quoted cell that begins in line {line} did not end within {_BLOCK_BYTES} bytes; close its quote"
        ) from None


def _reader(
    file: CheckedQuotes, options: csv.ConvertOptions, names: Sequence[str] | None = None
) -> csv.CSVStreamingReader:
    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False, column_names=names),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=options,
    )
