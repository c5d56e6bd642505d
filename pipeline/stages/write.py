"""WritePart: outcome rows in, immutable Parquet parts in the output, one small row about them out."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import VectorSpec
from pipeline.errors import RejectCode
from pipeline.index.parts import write_parts
from pipeline.outcomes import COST_FIELDS
from pipeline.redaction import redacted_errors
from pipeline.schema import PART_ROW
from pipeline.storage import Store

__all__ = ["RECEIPT", "WriteSettings", "receipt_facts", "write_outcomes"]

RECEIPT = pa.schema(
    [
        pa.field("parts", pa.list_(pa.struct(list(PART_ROW)))),
        pa.field("items", pa.int64()),
        pa.field("vectors", pa.int64()),
        pa.field("encoded", pa.int64()),
        pa.field("text_tokens", pa.int64()),
        pa.field("visual_tokens", pa.int64()),
        pa.field("padded_tokens", pa.float64()),
        pa.field("forwards", pa.float64()),
        pa.field("filled", pa.float64()),
        pa.field("prepare_s", pa.float64()),
        pa.field("encode_s", pa.float64()),
        pa.field("write_s", pa.float64()),
        pa.field("rejects", pa.list_(pa.struct([("code", pa.string()), ("n", pa.int64())]))),
    ]
)
"""What a write task returns: its parts, and what the items in them cost."""


@dataclass(frozen=True, slots=True)
class WriteSettings:
    """Everything a write task needs."""

    store: Store
    run_id: str
    id_type: pa.DataType
    carry: tuple[pa.Field, ...]
    specs: tuple[VectorSpec, ...]
    hidden_dim: int
    metadata: dict[str, str]


@redacted_errors
def write_outcomes(outcomes: pa.Table, settings: WriteSettings) -> pa.Table:
    """Write `outcomes` as parts; returns one row of `RECEIPT`, none for no outcomes."""
    if outcomes.num_rows == 0:
        return RECEIPT.empty_table()
    started = time.monotonic()
    costs = [field.name for field in COST_FIELDS]
    plain = outcomes.drop_columns([name for name in costs if name in outcomes.column_names])
    parts = write_parts(
        settings.store,
        settings.run_id,
        plain,
        id_type=settings.id_type,
        carry=settings.carry,
        specs=settings.specs,
        hidden_dim=settings.hidden_dim,
        metadata=settings.metadata,
    )
    row = {"parts": parts, **receipt_facts(outcomes), "write_s": time.monotonic() - started}
    return pa.Table.from_pylist([row], RECEIPT)


def receipt_facts(outcomes: pa.Table) -> dict[str, object]:
    """What a receipt says of `outcomes`, whose rows with a `code` are rejects, beside its parts and `write_s`."""
    codes = Counter(code for code in outcomes.column("code").to_pylist() if code is not None)
    tokens = _sum(outcomes, "n_tokens")
    visual = _sum(outcomes, "n_visual_tokens")
    vectors = outcomes.num_rows - codes.total()
    return {
        "items": outcomes.num_rows,
        "vectors": vectors,
        "encoded": vectors + codes[RejectCode.NON_FINITE],
        "text_tokens": int(tokens - visual),
        "visual_tokens": int(visual),
        "rejects": [{"code": code, "n": n} for code, n in sorted(codes.items())],
        **{field.name: _sum(outcomes, field.name) for field in COST_FIELDS},
    }


def _sum(table: pa.Table, name: str) -> float:
    return float(pc.sum(table.column(name)).as_py() or 0) if name in table.column_names else 0.0
