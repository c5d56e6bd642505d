"""ORC manifests, as S3 Inventory writes them.

In: an open ORC file. Out: its schema, and its rows in batches, stripe by stripe. Refused (as pyarrow errors): what is
no ORC. Inline media are not looked for in ORC: `layouts.recognition` refuses such columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.orc as orc

from pipeline.manifest.parquet_files import BATCH_ROWS

__all__ = ["orc_batches", "orc_schema"]


def orc_schema(file: BinaryIO) -> pa.Schema:
    """The columns of `file`."""
    return orc.ORCFile(file).schema


def orc_batches(file: BinaryIO, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of `columns` in order; one stripe at a time is held."""
    opened = orc.ORCFile(file)
    for i in range(opened.nstripes):
        stripe = opened.read_stripe(i, columns=list(columns))
        for start in range(0, stripe.num_rows, BATCH_ROWS):
            yield stripe.slice(start, BATCH_ROWS).select(list(columns))
