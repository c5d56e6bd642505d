"""A window of pairs: what one preparation task hands to the reranker, as a one-row Arrow table.

The halves of prompts travel as the items of a `window` do, each once, however many pairs need it; beside them a row a
pair says which two it is made of, or why it is made of none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.rerank.schema import PAIR_FIELDS, SCORE_FACTS
from pipeline.types import Prepared
from pipeline.window import WINDOW_COLUMNS, pack_window, unpack_window

__all__ = ["PairWindow", "pack_pairs", "unpack_pairs"]

_PAIR = pa.struct([pa.field("prefix", pa.int32()), pa.field("suffix", pa.int32()), *PAIR_FIELDS, *SCORE_FACTS])


@dataclass(frozen=True, slots=True)
class PairWindow:
    """A window read back. `facts`: one row a pair, `PAIR_FIELDS` and `SCORE_FACTS`; `halves` of prompts.

    `rows[i]` (int64) is the row in `facts` of the i-th pair without a code, which is `halves[parts[i, 0]]` followed by
    `halves[parts[i, 1]]`.
    """

    facts: pa.Table
    halves: tuple[Prepared, ...]
    rows: NDArray[np.int64]
    parts: NDArray[np.int64]
    prepare_s: float


def pack_pairs(
    halves: Sequence[Prepared], pairs: Sequence[dict[str, Any]], prepare_s: float, least_bytes: int = 0
) -> pa.Table:
    """One row of `halves` and of `pairs`: dicts of `PAIR_FIELDS`, `SCORE_FACTS`, and `prefix` and `suffix`, places in
    `halves` or None in a pair with a code. It weighs `least_bytes` or more."""
    names = [str(place) for place in range(len(halves))]
    named = [replace(half, id=name) for half, name in zip(halves, names, strict=True)]
    packed = pack_window(pa.table({"id": pa.array(names, pa.string())}), named, prepare_s, least_bytes)
    return packed.append_column("pairs", pa.array([list(pairs)], pa.list_(_PAIR)))


def unpack_pairs(table: pa.Table) -> PairWindow:
    """The inverse of `pack_pairs`; `table` has exactly one row."""
    window = unpack_window(table.select(WINDOW_COLUMNS))
    pairs = pa.Table.from_struct_array(table.column("pairs")[0].values)
    rows = np.flatnonzero(pairs.column("code").is_null().to_numpy()).astype(np.int64)
    scored = pairs.take(pa.array(rows))
    parts = np.stack([scored.column(name).to_numpy().astype(np.int64) for name in ("prefix", "suffix")], 1)
    return PairWindow(pairs.drop_columns(["prefix", "suffix"]), window.prepared, rows, parts, window.prepare_s)
