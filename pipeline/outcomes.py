"""Outcomes: what Encode hands to WritePart, one row an item, either with its vectors or with a code.

Beside the columns of `schema.outcomes_schema` a row bears its share of what its window cost (`COST_FIELDS`), so
that a window which runs twice is counted as often as its rows are written: once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import NON_FINITE_DETAIL, RejectCode, scrub
from pipeline.models.encoder import Encoded
from pipeline.quantize import quantize
from pipeline.schema import REJECT_FIELDS, outcomes_schema, vector_fields
from pipeline.window import Window

__all__ = ["COST_FIELDS", "crashed_outcomes", "window_outcomes"]

COST_FIELDS = [
    pa.field("prepare_s", pa.float64()),
    pa.field("encode_s", pa.float64()),
    pa.field("padded_tokens", pa.float64()),
    pa.field("forwards", pa.float64()),
    pa.field("filled", pa.float64()),
]


def window_outcomes(
    window: Window,
    encoded: Encoded,
    *,
    specs: Sequence[VectorSpec],
    carry: Sequence[pa.Field],
    encode_s: float,
) -> pa.Table:
    """`window`'s rows with the vectors of its prepared items, `encoded`, quantised to `specs`.

    An item that failed alone becomes a reject with its code (`GPU_OOM` if it is too large for the device), a vector
    with NaN, infinity or zero norm `NON_FINITE`.
    """
    hidden_dim = int(encoded.vectors.shape[1])
    quantized = quantize(encoded.vectors, specs)
    good = window.rows[quantized.ok]
    source = np.full(window.facts.num_rows, -1, np.int64)
    source[good] = np.flatnonzero(quantized.ok)
    taken = pa.array(source, mask=source < 0)
    columns = {
        field.name: array.take(taken)
        for field, array in zip(vector_fields(specs, hidden_dim), quantized.arrays(), strict=True)
    }
    facts = _with_failures(window, quantized.ok, encoded.problems)
    columns |= {name: facts.column(name) for name in facts.column_names} | _reject_columns(facts)
    schema = outcomes_schema(specs, hidden_dim, carry)
    table = pa.table([columns[field.name] for field in schema], schema=schema)
    n = window.facts.num_rows
    costs = (window.prepare_s, encode_s, encoded.padded_tokens, encoded.forwards, encoded.filled)
    for field, total in zip(COST_FIELDS, costs, strict=True):
        table = table.append_column(field, pa.array(np.full(n, total / n), pa.float64()))
    return table


def crashed_outcomes(
    work: pa.Table, *, specs: Sequence[VectorSpec], hidden_dim: int, carry: Sequence[pa.Field], detail: str
) -> pa.Table:
    """`WORKER_CRASHED` rejects for rows of the work list that no worker survived, even alone."""
    n = work.num_rows
    facts = work.append_column("code", pa.array([str(RejectCode.WORKER_CRASHED)] * n, pa.string()))
    facts = facts.append_column("detail", pa.array([detail] * n, pa.string()))
    columns = {name: facts.column(name) for name in facts.column_names} | _reject_columns(facts)
    schema = outcomes_schema(specs, hidden_dim, carry)
    return pa.table([columns.get(field.name, pa.nulls(n, field.type)) for field in schema], schema=schema)


def _with_failures(window: Window, ok: NDArray[np.bool_], problems: dict[int, tuple[RejectCode, str]]) -> pa.Table:
    facts = window.facts
    codes, details = facts.column("code").to_pylist(), facts.column("detail").to_pylist()
    for index in np.flatnonzero(~ok).tolist():
        row = window.rows[index]
        code, detail = problems.get(index, (RejectCode.NON_FINITE, NON_FINITE_DETAIL))
        codes[row], details[row] = str(code), scrub(detail)
    for name, values in (("code", codes), ("detail", details)):
        facts = facts.set_column(facts.column_names.index(name), name, pa.array(values, pa.string()))
    return facts


def _reject_columns(facts: pa.Table) -> dict[str, pa.Array]:
    codes = facts.column("code").to_pylist()
    meanings = [RejectCode(code).meaning if code is not None else None for code in codes]
    values = {
        "stage": [str(meaning.stage) if meaning else None for meaning in meanings],
        "retryable": [meaning.retryable if meaning else None for meaning in meanings],
        "attempts": [
            earlier + 1 if meaning else None
            for earlier, meaning in zip(facts.column("attempts").to_pylist(), meanings, strict=True)
        ],
        "kept_previous": [False if meaning else None for meaning in meanings],
    }
    types = {field.name: field.type for field in REJECT_FIELDS}
    return {name: pa.array(column, types[name]) for name, column in values.items()}
