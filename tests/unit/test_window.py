"""A window gives back exactly what was put in, in order, rejects included."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import RejectCode
from pipeline.types import MediaKind, Modality, Prepared, Reject, Visual
from pipeline.window import pack_window, unpack_window, window_bytes


@st.composite
def visuals(draw: st.DrawFn) -> Visual:
    kind = draw(st.sampled_from(list(MediaKind)))
    t = 1 if kind is MediaKind.IMAGE else 2 * draw(st.integers(1, 2))
    h, w = 32 * draw(st.integers(1, 2)), 32 * draw(st.integers(1, 3))
    seed = draw(st.integers(0, 1 << 16))
    frames = np.random.default_rng(seed).integers(0, 256, (t, h, w, 3), dtype=np.uint8)
    return Visual(kind, frames, (max(1, t // 2), h // 16, w // 16))


@st.composite
def results(draw: st.DrawFn) -> list[Prepared | Reject]:
    made: list[Prepared | Reject] = []
    for index in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            made.append(Reject(f"i{index}", draw(st.sampled_from(list(RejectCode))), "why"))
            continue
        n = draw(st.integers(1, 40))
        rng = np.random.default_rng(index)
        made.append(
            Prepared(
                id=f"i{index}",
                input_ids=rng.integers(0, 151_936, n).astype(np.int32),
                position_ids=rng.integers(0, 99, (3, n)).astype(np.int32),
                visuals=tuple(draw(st.lists(visuals(), max_size=3))),
                modality=draw(st.sampled_from(list(Modality))),
                n_visual_tokens=draw(st.integers(0, n)),
                n_frames=draw(st.integers(0, 64)),
                truncated=draw(st.booleans()),
                content_hash=f"h{index}",
            )
        )
    return made


def work_of(made: list[Prepared | Reject]) -> pa.Table:
    ids = [result.id for result in made]
    carried = [None if index % 2 else {"a": [index]} for index in range(len(ids))]
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "fingerprint": pa.array([f"f-{name}" for name in ids]),
            "attempts": pa.array([0] * len(ids), pa.int32()),
            "carry.shop": pa.array(carried, pa.struct([("a", pa.list_(pa.int64()))])),
        }
    )


@settings(max_examples=60)
@given(results())
def test_round_trip(made: list[Prepared | Reject]) -> None:
    packed = pack_window(work_of(made), made, 1.5)
    assert packed.num_rows == 1
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, packed.schema) as writer:
        writer.write_table(packed)
    window = unpack_window(pa.ipc.open_stream(stream.getvalue()).read_all())

    assert window.prepare_s == 1.5
    assert window.facts.column("id").to_pylist() == [result.id for result in made]
    assert window.facts.column("carry.shop").to_pylist() == work_of(made).column("carry.shop").to_pylist()
    codes = [str(result.code) if isinstance(result, Reject) else None for result in made]
    assert window.facts.column("code").to_pylist() == codes
    kept = [result for result in made if isinstance(result, Prepared)]
    assert [made[row] for row in window.rows] == kept
    for before, after in zip(kept, window.prepared, strict=True):
        assert (before.id, before.modality, before.content_hash) == (
            after.id,
            after.modality,
            after.content_hash,
        )
        assert np.array_equal(before.input_ids, after.input_ids)
        assert np.array_equal(before.position_ids, after.position_ids)
        assert [v.kind for v in before.visuals] == [v.kind for v in after.visuals]
        assert [v.grid_thw for v in before.visuals] == [v.grid_thw for v in after.visuals]
        for v, w in zip(before.visuals, after.visuals, strict=True):
            assert np.array_equal(v.frames, w.frames)
        assert window_bytes(before) == window_bytes(after)


def test_pixels_are_views_of_the_table() -> None:
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    visual = Visual(MediaKind.IMAGE, frames, (1, 2, 2))
    item = Prepared("a", np.zeros(3, np.int32), np.zeros((3, 3), np.int32), (visual,), Modality.IMAGE, 1, 0, False, "h")
    packed = pack_window(work_of([item]), [item], 0.0)
    view = unpack_window(packed).prepared[0].visuals[0].frames
    assert view.ctypes.data == packed.column("pixels").chunk(0).buffers()[2].address


def test_results_of_other_ids_are_a_bug() -> None:
    reject = Reject("a", RejectCode.NOT_FOUND, "")
    with pytest.raises(AssertionError, match="bug"):
        pack_window(work_of([reject]), [Reject("b", RejectCode.NOT_FOUND, "")], 0.0)
