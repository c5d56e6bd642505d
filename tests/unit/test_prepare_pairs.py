"""Windows of pairs out of a tile: closed by bytes or tokens, every pair once, one side's failure told in its pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DecodeConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool, Ticket
from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import to_work_table
from pipeline.media_job import MediaJob, ReadMedia
from pipeline.preparation import Preparation
from pipeline.rerank.config import RerankInputs
from pipeline.rerank.pair import PreparedPair, RerankHalf, join
from pipeline.rerank.prepare import HalfMaker, RerankPreparer
from pipeline.rerank.schema import TILES
from pipeline.rerank.window import PairWindow, unpack_pairs
from pipeline.stages.prepare_pairs import PairSource, pair_windows
from pipeline.stages.window_limits import WindowLimits
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, WorkItem
from tests.fixtures.golden_cases import png
from tests.fixtures.tokenizer import rerank_tokenizer

WIDE = 10**9
PIXELS_BYTES = 64 * 64 * 3


class Lake:
    """Items by id, and in which order they were read."""

    def __init__(self, contents: dict[str, LoadedItem | RejectError] | None = None) -> None:
        self.contents = contents or {}
        self.read: list[str] = []

    def load_many(self, items: Iterable[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
        for item in items:
            self.read.append(item.id)
            yield item, self.contents.get(item.id) or LoadedItem(item.id, item.texts, ())


class InProcess(DecodePool):
    """A pool without children: what they would do, here."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self._read = equip_drafter(RerankInputs.model_validate(inputs), DecodeConfig())

    def submit(self, job: MediaJob) -> Ticket:
        return Ticket(job, None, cast(Any, None), None)  # nobody waits for a child

    def result(self, ticket: Ticket) -> ReadMedia:
        return self._read(ticket.job)


def preparer(**inputs: Any) -> RerankPreparer:
    return RerankPreparer(rerank_tokenizer(), RerankInputs.model_validate(inputs))


def picture(key: str, seed: int) -> LoadedItem:
    return LoadedItem(key, (), (LoadedMedia(MediaKind.IMAGE, (png(64, 64, seed),)),))


def item(key: str) -> WorkItem:
    return WorkItem(key, (f"words of {key}",), (), None, None, None, f"f-{key}", "m.parquet", 0, 0)


def tile_of(pairs: Sequence[tuple[int, int]]) -> pa.Table:
    """A tile of the pairs of these places; items are q0, q1 … and d0, d1 …."""
    rows = [
        {"query": q, "document": d, "query_id": f"q{q}", "doc_id": f"d{d}", "first_stage_rank": n + 1}
        | {"first_stage_score": None, "fingerprint": f"f{q}{d}", "attempts": n % 2}
        for n, (q, d) in enumerate(pairs)
    ]
    sides = [
        to_work_table([item(f"{side}{n}") for n in range(1 + max(place[at] for place in pairs))]).to_pylist()
        for at, side in enumerate("qd")
    ]
    return pa.Table.from_pylist([{"queries": sides[0], "documents": sides[1], "pairs": rows}], TILES)


def windows_of(
    pairs: Sequence[tuple[int, int]], lake: Lake, max_bytes: int = WIDE, max_tokens: int = WIDE, **inputs: Any
) -> list[PairWindow]:
    preparation = Preparation(InProcess(inputs))
    source = PairSource(tile_of(pairs), lake.load_many, preparer(**inputs), preparation)
    return [unpack_pairs(window) for window in pair_windows(source, WindowLimits(max_bytes, max_tokens))]


def facts(windows: Sequence[PairWindow]) -> list[dict[str, Any]]:
    return [row for window in windows for row in window.facts.to_pylist()]


def prompts(windows: Sequence[PairWindow]) -> dict[tuple[str, str], list[int]]:
    """The token ids of each pair that can be scored."""
    found = {}
    for window in windows:
        rows = window.facts.to_pylist()
        for row, (prefix, suffix) in zip(window.rows.tolist(), window.parts.tolist(), strict=True):
            whole = join(PreparedPair(window.halves[prefix], window.halves[suffix], shared=True))
            found[rows[row]["query_id"], rows[row]["doc_id"]] = whole.input_ids.tolist()
    return found


PLACES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=8, unique=True)


@settings(max_examples=30)
@given(places=PLACES, bounds=st.tuples(st.sampled_from([1, PIXELS_BYTES, WIDE]), st.sampled_from([1, 120, WIDE])))
def test_any_bounds_give_each_pair_once_with_its_own_prompt(
    places: list[tuple[int, int]], bounds: tuple[int, int]
) -> None:
    lake = Lake({"d1": picture("d1", 1), "q1": picture("q1", 2), "d2": RejectError(RejectCode.NOT_FOUND, "gone")})
    windows = windows_of(places, lake, *bounds)
    rows = facts(windows)
    assert [(row["query_id"], row["doc_id"]) for row in rows] == [(f"q{q}", f"d{d}") for q, d in places]
    assert [row["first_stage_rank"] for row in rows] == list(range(1, len(places) + 1))
    assert [row["code"] for row in rows] == ["NOT_FOUND" if d == 2 else None for _, d in places]
    ours = preparer()
    expected = {}
    for q, d in places:
        if d != 2:
            sides = [next(lake.load_many([item(key)]))[1] for key in (f"q{q}", f"d{d}")]
            pair = ours.pair(ours.query(sides[0]), ours.document(sides[1]))
            expected[f"q{q}", f"d{d}"] = join(pair).input_ids.tolist()
    assert prompts(windows) == expected


LISTS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]


def test_one_window_reads_each_file_once_in_the_order_of_need() -> None:
    lake = Lake()
    (window,) = windows_of(LISTS, lake)
    assert lake.read == ["q0", "d0", "d1", "d2", "q1"]
    assert len(window.halves) == 5
    assert [row["attempts"] for row in facts([window])] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("room_bytes", "read"), [(1, ["q0", "d0", "d1", "d2", "q1", "d0", "d2"]), (WIDE, ["q0", "d0", "d1", "d2", "q1"])]
)
def test_a_half_is_read_again_only_where_there_is_no_room_for_it(room_bytes: int, read: list[str]) -> None:
    lake = Lake()
    windows = windows_of(LISTS, lake, max_bytes=room_bytes, max_tokens=1)
    assert [window.facts.num_rows for window in windows] == [1] * 5
    assert lake.read == read


def test_windows_close_at_the_bytes_of_distinct_halves() -> None:
    lake = Lake({f"d{n}": picture(f"d{n}", n) for n in range(4)} | {"q0": picture("q0", 9)})
    pairs = [(0, n) for n in range(4)]
    sizes = [
        [window.facts.num_rows for window in windows_of(pairs, lake, max_bytes=n * PIXELS_BYTES)] for n in (1, 3, 6)
    ]
    assert sizes == [[1, 1, 1, 1], [2, 2], [4]]


def test_windows_close_at_the_tokens_that_must_be_computed() -> None:
    lake = Lake()
    (whole,) = windows_of([(0, 0), (0, 1), (0, 2)], lake)
    prefix, *suffixes = [half.n_tokens for half in whole.halves]
    bound = prefix + sum(suffixes[:2])
    for max_tokens, sizes in ((bound, [2, 1]), (bound + 1, [3])):
        windows = windows_of([(0, 0), (0, 1), (0, 2)], lake, max_tokens=max_tokens)
        assert [window.facts.num_rows for window in windows] == sizes


def test_equal_contents_under_different_ids_are_one_half() -> None:
    lake = Lake({key: picture(key, 1) for key in ("d0", "d1")} | {"q1": LoadedItem("q1", ("words of q0",), ())})
    (window,) = windows_of([(0, 0), (0, 1), (1, 0)], lake)
    assert len(window.halves) == 2
    assert window.parts.tolist() == [[0, 1]] * 3


def test_a_bad_side_is_told_in_each_of_its_pairs_only() -> None:
    broken = LoadedItem("d1", (), (LoadedMedia(MediaKind.IMAGE, (png(64, 64, 1)[:60],)),))
    lake = Lake({"q1": RejectError(RejectCode.FETCH_TIMEOUT, "slow"), "d1": broken})
    rows = facts(windows_of([(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (2, 0)], lake))
    codes = [None, "IMAGE_UNREADABLE", "FETCH_TIMEOUT", "FETCH_TIMEOUT", "IMAGE_UNREADABLE", None]
    assert [row["code"] for row in rows] == codes
    assert [row["retryable"] for row in rows] == [None, False, True, True, False, None]
    assert [(row["detail"] or "").split(":")[0] for row in rows] == ["", "document", "query", "query", "document", ""]
    assert lake.read == ["q0", "d0", "d1", "q1", "q2"]


def test_a_pair_too_long_for_its_company_is_refused_alone() -> None:
    lake = Lake({"d1": LoadedItem("d1", ("river " * 60,), ())})
    rows = facts(windows_of([(0, 0), (0, 1), (0, 2)], lake, max_length=120, over_length="reject"))
    assert [row["code"] for row in rows] == [None, "OVER_LENGTH", None]
    cut = facts(windows_of([(0, 0), (0, 1), (0, 2)], lake, max_length=120))
    assert [row["truncated"] for row in cut] == [False, True, False]
    assert cut[1]["n_tokens"] == 120


@pytest.mark.parametrize("over_length", ["truncate", "reference"])
def test_a_side_that_is_cut_otherwise_for_each_partner_keeps_each_pair_s_own_cut(over_length: str) -> None:
    texts = {"q0": "lake " * 40, "q1": "sea", "q2": "pond " * 20, "d0": "river " * 60, "d1": "brook " * 30}
    lake = Lake({key: LoadedItem(key, (text,), ()) for key, text in texts.items()})
    pairs = [(q, d) for q in range(3) for d in range(2)]
    (window,) = windows_of(pairs, lake, max_length=140, over_length=over_length)
    alone = [windows_of([pair], lake, max_length=140, over_length=over_length) for pair in pairs]
    assert {row["truncated"] for row in facts([window])} == {True, False}
    assert prompts([window]) == {key: ids for windows in alone for key, ids in prompts(windows).items()}


def test_a_defect_of_ours_costs_one_side(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = HalfMaker.finish

    def failing(self: HalfMaker, loaded: LoadedItem, read: ReadMedia) -> RerankHalf:
        if loaded.id == "d1":
            raise ZeroDivisionError("a defect of ours at 0x7f00")
        return sound(self, loaded, read)

    monkeypatch.setattr(HalfMaker, "finish", failing)
    rows = facts(windows_of([(0, 0), (0, 1), (1, 1)], Lake()))
    assert [row["code"] for row in rows] == [None, "PREPARE_FAILED", "PREPARE_FAILED"]
    assert "ZeroDivisionError" in rows[1]["detail"]
    assert "0x7f00" not in rows[1]["detail"]
