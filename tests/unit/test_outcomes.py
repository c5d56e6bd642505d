"""Outcomes: every item of a window comes out once, with vectors or with a code, and costs add up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import VectorSpec
from pipeline.errors import RejectCode
from pipeline.models.encoder import Encoded
from pipeline.outcomes import COST_FIELDS, crashed_outcomes, window_outcomes
from pipeline.schema import outcomes_schema
from pipeline.types import Modality, Prepared, Reject
from pipeline.window import pack_window, unpack_window

SPECS = (VectorSpec(name="vector", dim=8, dtype="int8"), VectorSpec(name="full", dtype="float32"))
CARRY = (pa.field("shop", pa.int64()),)
HIDDEN = 16


def prepared(name: str) -> Prepared:
    return Prepared(
        name, np.arange(5, dtype=np.int32), np.zeros((3, 5), np.int32), (), Modality.TEXT, 0, 0, False, f"h-{name}"
    )


def work(ids: list[str]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "fingerprint": pa.array([f"f-{name}" for name in ids]),
            "attempts": pa.array([2] * len(ids), pa.int32()),
            "carry.shop": pa.array(range(len(ids)), pa.int64()),
        }
    )


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from(["good", "reject", "nan", "zero", "large"]), min_size=1, max_size=12), st.integers(0, 99)
)
def test_every_item_once(kinds: list[str], seed: int) -> None:
    ids = [f"i{n}" for n in range(len(kinds))]
    results = [
        Reject(name, RejectCode.NOT_FOUND, "gone") if kind == "reject" else prepared(name)
        for name, kind in zip(ids, kinds, strict=True)
    ]
    window = unpack_window(pack_window(work(ids), results, 3.0))
    states = np.random.default_rng(seed).standard_normal((len(window.prepared), HIDDEN)).astype(np.float32)
    sent = [kind for kind in kinds if kind != "reject"]
    for row, kind in enumerate(sent):
        states[row] = {"nan": np.nan, "zero": 0.0, "large": np.nan}.get(kind, states[row])
    too_large = tuple((row, "out of memory") for row, kind in enumerate(sent) if kind == "large")
    encoded = Encoded(states, padded_tokens=9, forwards=3, filled=2.5, too_large=too_large)
    table = window_outcomes(window, encoded, specs=SPECS, carry=CARRY, encode_s=6.0)

    assert table.select(outcomes_schema(SPECS, HIDDEN, CARRY).names).schema == outcomes_schema(SPECS, HIDDEN, CARRY)
    assert table.column("id").to_pylist() == ids
    assert table.column("carry.shop").to_pylist() == list(range(len(ids)))
    codes = {"good": None, "reject": "NOT_FOUND", "nan": "NON_FINITE", "zero": "NON_FINITE", "large": "GPU_OOM"}
    assert table.column("code").to_pylist() == [codes[kind] for kind in kinds]
    expected = iter(states)
    for row, kind in zip(table.to_pylist(), kinds, strict=True):
        state = next(expected) if kind != "reject" else None
        if kind == "good":
            assert state is not None
            np.testing.assert_allclose(row["full"], state / np.linalg.norm(state), atol=1e-6)
            assert row["vector_scale"] > 0
            assert row["attempts"] is None
        else:
            assert row["full"] is None
            assert row["vector"] is None
            assert row["attempts"] == 3
            assert row["retryable"] is RejectCode(codes[kind]).meaning.retryable
    for field, total in zip(COST_FIELDS, (3.0, 6.0, 9.0, 3.0, 2.5), strict=True):
        assert abs(sum(table.column(field.name).to_pylist()) - total) < 1e-9


def test_crashed_items_are_retryable_rejects() -> None:
    table = crashed_outcomes(work(["a", "b"]), specs=SPECS, hidden_dim=HIDDEN, carry=CARRY, detail="died")
    assert table.schema == outcomes_schema(SPECS, HIDDEN, CARRY)
    assert {(row["code"], row["stage"], row["retryable"], row["detail"]) for row in table.to_pylist()} == {
        ("WORKER_CRASHED", "run", True, "died")
    }
    assert table.column("carry.shop").to_pylist() == [0, 1]
