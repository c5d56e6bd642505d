"""Types that two nights of a carried column have in common: only those that hold every value of both."""

from __future__ import annotations

import datetime
import itertools
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from pipeline.manifest.arrow_types import plain_array
from pipeline.widening import common_type

WORST: list[tuple[pa.DataType, Any]] = [
    (pa.int64(), 2**63 - 1),
    (pa.uint32(), 2**32 - 1),
    (pa.uint64(), 2**64 - 1),
    (pa.decimal32(5, 1), Decimal("9999.9")),
    (pa.decimal128(10, 2), Decimal("99999999.99")),
    (pa.decimal128(38, 10), Decimal(10) ** 27),
    (pa.string(), "é"),
    (pa.binary(), b"\xff"),
    (pa.timestamp("us"), datetime.datetime(9999, 12, 31)),
    (pa.timestamp("ns"), datetime.datetime(2262, 1, 1)),
    (pa.bool_(), True),
    (pa.list_(pa.uint64()), [2**64 - 1]),
    (pa.list_(pa.int8()), [-1]),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 2**63 - 1, "b": "é"}),
    (pa.struct([("b", pa.string()), ("a", pa.decimal128(10, 2))]), {"b": "é", "a": Decimal("1.25")}),
    (pa.map_(pa.string(), pa.timestamp("us")), [("a", datetime.datetime(9999, 12, 31))]),
    (pa.map_(pa.string(), pa.timestamp("ns")), [("a", datetime.datetime(2262, 1, 1))]),
]


def test_what_two_types_have_in_common_holds_the_worst_value_of_both() -> None:
    widened = 0
    for one, other in itertools.permutations(WORST, 2):
        wide = common_type(one[0], other[0])
        for kind, value in (one, other) if wide else ():
            assert plain_array(pa.chunked_array([[value]], kind), wide).to_pylist() == [value], (kind, wide)
            widened += 1
    assert widened


B = pa.field("b", pa.string())


@pytest.mark.parametrize(
    ("one", "other", "wide"),
    [
        (pa.null(), pa.int64(), pa.int64()),
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.decimal128(10, 2), pa.decimal128(12, 4), pa.decimal128(12, 4)),
        (pa.float16(), pa.decimal128(10, 2), None),
        (pa.int64(), pa.decimal128(10, 2), None),
        (pa.string(), pa.binary(), None),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us"), pa.timestamp("ns"), None),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.struct([("a", pa.int8())]), pa.struct([B]), pa.struct([("a", pa.int8()), B])),
    ],
    ids=str,
)  # fmt: skip
def test_types_widen_where_nothing_is_lost(one: pa.DataType, other: pa.DataType, wide: pa.DataType | None) -> None:
    assert common_type(one, other) == wide
