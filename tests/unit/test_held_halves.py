"""What a preparer of pairs holds between windows: as much as there is room for, of that what is needed first."""

from __future__ import annotations

import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.rerank.pair import RerankHalf
from pipeline.stages.held_halves import HeldHalves
from pipeline.types import LoadedItem
from tests.unit.test_prepare_pairs import Lake, picture, preparer, windows_of

PIXELS_BYTES = 64 * 64 * 3


def half(n_words: int) -> RerankHalf:
    return preparer().document(LoadedItem("d", ("river " * n_words,), ()))


def bytes_of(one: RerankHalf) -> int:
    arrays = (one.prepared.input_ids, one.prepared.position_ids, one.ids.whole, one.ids.apart)
    return sum(array.nbytes for array in arrays)


def test_what_is_needed_first_is_kept() -> None:
    one = half(50)
    held = HeldHalves(3 * bytes_of(one))
    keys = [("document", place) for place in range(6)]
    for key in keys:
        held.put(key, one)
    held.make_room([("query", 0), keys[5], ("query", 0), keys[1], ("query", 0), keys[3], ("query", 0), keys[0]])
    assert [key[1] for key in keys if held.get(key)] == [1, 3, 5]


def test_nothing_is_dropped_while_there_is_room() -> None:
    one = half(50)
    held = HeldHalves(2 * bytes_of(one))
    held.put(("document", 0), one)
    held.put(("document", 1), one)
    held.make_room([])
    assert held.get(("document", 0)) is one
    assert held.get(("document", 1)) is one


def test_the_next_pair_keeps_its_halves_however_large() -> None:
    held = HeldHalves(1)
    for key in (("query", 0), ("query", 1), ("document", 0)):
        held.put(key, half(50))
    held.make_room([("query", 0), ("document", 1), ("query", 1), ("document", 0)])
    assert isinstance(held.get(("query", 0)), RerankHalf)
    assert held.get(("query", 1)) is held.get(("document", 0)) is None


def test_rejects_are_kept_without_what_they_were_raised_over() -> None:
    held = HeldHalves(0)
    try:
        try:
            raise ValueError("over a file of gigabytes")
        except ValueError as error:
            raise RejectError(RejectCode.DECODE_TIMEOUT, "twice") from error
    except RejectError as error:
        held.put(("document", 0), error)
    held.put(("document", 1), half(50))
    held.make_room([])
    kept = held.get(("document", 0))
    assert isinstance(kept, RejectError)
    assert (kept.code, kept.detail) == (RejectCode.DECODE_TIMEOUT, "twice")
    assert kept.__traceback__ is kept.__cause__ is kept.__context__ is None


@pytest.mark.parametrize(("room_pictures", "held"), [(3, 2), (6, 5)])
def test_only_documents_beyond_the_room_are_read_again(room_pictures: int, held: int) -> None:
    """Five documents of a picture each for four queries; ids weigh something too, so one picture less is held."""
    lake = Lake({f"d{n}": picture(f"d{n}", n) for n in range(5)})
    windows_of([(q, d) for q in range(4) for d in range(5)], lake, max_bytes=room_pictures * PIXELS_BYTES)
    assert len([name for name in lake.read if name.startswith("d")]) <= 5 + 3 * (5 - held)
