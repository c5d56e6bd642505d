"""Classes of items against an oracle of plain dictionaries."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.comparison import PLACES_TRIED, Comparison, PlanCounts, check_ids, compare
from pipeline.errors import ManifestError
from pipeline.index.carried import CarriedDigests
from pipeline.index.commits import FileEntry
from pipeline.index.parts import entry_of, write_parts
from pipeline.schema import ITEMS
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import CARRY, HIDDEN_DIM, SPECS, Row, items_table, outcomes
from tests.fixtures.manifests import HOSTILE_IDS, write_parquet

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Reject:
    fingerprint: str
    retryable: bool
    attempts: int
    of_place: bool = False


def _row(id_: str, made: str | Reject) -> Row:
    if isinstance(made, str):
        return Row(id_, made)
    kinds = ("away", "gone") if made.of_place else ("retry", "fatal")
    return Row(id_, made.fingerprint, kinds[0] if made.retryable else kinds[1])


def write_rows(store: Store, rows: Sequence[tuple[str, str | Reject]], id_type: pa.DataType) -> list[FileEntry]:
    """A vectors and a rejects file of `rows`: id, and a vector's fingerprint or a reject."""
    table = outcomes([_row(id_, made) for id_, made in rows])
    attempts = pa.array([made.attempts if isinstance(made, Reject) else None for _, made in rows], pa.int32())
    table = table.set_column(table.schema.get_field_index("attempts"), "attempts", attempts)
    written = write_parts(
        store, "r", table, id_type=id_type, carry=CARRY, specs=SPECS, hidden_dim=HIDDEN_DIM, metadata={}
    )
    return [entry_of(row) for row in written]


def compared(
    folder: Path,
    items: Mapping[str, str],
    live: Sequence[tuple[str, str | Reject]] = (),
    parts: Sequence[tuple[str, str | Reject]] = (),
    id_type: pa.DataType | None = None,
    labels: Mapping[str, str] = MappingProxyType({}),
    shared: Collection[str] = (),
    retry: Sequence[str] = (),
    recompute: bool = False,
) -> Comparison:
    """`labels` are the manifest's carried values; stored rows have none. `shared` are fingerprints of contents."""
    store = open_store(str(folder / "out"))
    kind = id_type or pa.string()
    digests = CarriedDigests(CARRY if labels else ())
    carried = digests.of(pa.record_batch([[labels.get(id_) for id_ in items]], schema=pa.schema(CARRY)))
    table = items_table(list(items.items()), shared)
    path = write_parquet(
        folder / "items.parquet",
        table.set_column(table.schema.get_field_index("carried"), ITEMS.field("carried"), carried),
        row_group_size=7,
    )
    written = [write_rows(store, rows, kind) if rows else [] for rows in (live, parts)]
    return compare(
        path,
        store,
        live=written[0],
        parts=written[1],
        max_attempts=MAX_ATTEMPTS,
        digests=digests,
        retry=retry,
        recompute=recompute,
    )


FINGERPRINT = st.sampled_from(["a", "b", "c"])
REJECT = st.builds(Reject, FINGERPRINT, st.booleans(), st.integers(0, 4), st.booleans())
STATE = st.tuples(
    st.none() | FINGERPRINT,  # in the manifest
    st.none() | FINGERPRINT,  # live vector
    st.none() | REJECT,  # live reject; beside a vector it is a kept_previous one
    st.none() | FINGERPRINT | REJECT,  # part
    st.booleans(),  # its carried value in the manifest is another than every stored row's
)
State = tuple[str | None, str | None, Reject | None, str | Reject | None, bool]


def oracle(states: Mapping[str, State], shared: Collection[str]) -> tuple[PlanCounts, dict[str, int], set[str]]:
    """Counts, to-do marks by id, and the ids whose rows take carried values from the manifest."""
    n = dict.fromkeys(("new", "changed", "carried", "unchanged", "retryable", "deleted", "resumed", "duplicates"), 0)
    marks: dict[str, int] = {}
    stale: set[str] = set()
    failed = _failed(states)
    leaders = _leaders(states, shared)
    for id_, (item, vector, reject, part, relabelled) in states.items():
        if item is None:
            n["deleted"] += vector is not None or reject is not None
            continue
        outcome = reject.fingerprint if reject else vector
        retry = reject is not None and _again(reject)
        if relabelled and (vector is not None or isinstance(part, str)):
            stale.add(id_)
        found = (
            "new" if outcome is None
            else "changed" if outcome != item
            else "retryable" if retry or (reject and _done(item, part))
            else "carried" if id_ in stale
            else "unchanged"
        )  # fmt: skip
        done = _done(item, part)
        idle = found in ("unchanged", "carried")
        marks[id_] = 0
        if item in shared and not done:
            stands, has_vector, attempts = _known(item, states)
            if idle and reject and (has_vector or item in leaders):
                found, idle = "retryable", False  # rejected for good, and yet its content has a vector or gets one
                stands = True
            if not idle and (stands or id_ not in leaders[item]):
                n["duplicates"] += 1
                stale.add(id_)
            elif not idle:
                marks[id_] = 1 + max(attempts, _tried(item, reject))
                if item in failed:
                    stale.add(id_)  # another one's vector may become its own
        elif not done and not idle:
            marks[id_] = 1 + (reject.attempts if found == "retryable" and reject else 0)
        if done and item in shared and isinstance(part, Reject) and part.of_place:
            stale.add(id_)  # another one's vector may become its own
        n[found] += 1
        n["resumed"] += done and not idle
    live = sum(vector is not None or reject is not None for _, vector, reject, *_ in states.values())
    to_do = sum(mark > 0 for mark in marks.values())
    return PlanCounts(items=len(marks), to_do=to_do, live=live, **n), marks, stale


def _again(reject: Reject) -> bool:
    return reject.retryable and reject.attempts < MAX_ATTEMPTS


def _done(item: str, part: str | Reject | None) -> bool:
    return item == (part.fingerprint if isinstance(part, Reject) else part)


def _tried(item: str, reject: Reject | None) -> int:
    return reject.attempts if reject and reject.fingerprint == item and reject.retryable else 0


def _failed(states: Mapping[str, State]) -> set[str]:
    """Contents that could not be read at some place."""
    outcomes = [made for _, _, *both, _ in states.values() for made in both if isinstance(made, Reject)]
    return {made.fingerprint for made in outcomes if made.of_place}


def _leaders(states: Mapping[str, State], shared: Collection[str]) -> dict[str, list[str]]:
    """By shared content of which no outcome stands and some items are to do: those of them that were tried least.

    One, but some more where a place of the content has failed.
    """
    found: dict[str, list[tuple[int, int, str]]] = {}
    for n, (id_, (item, vector, reject, part, _)) in enumerate(states.items()):
        if item is None or item not in shared or _done(item, part) or _known(item, states)[0]:
            continue
        outcome = reject.fingerprint if reject else vector
        if outcome != item or (reject and _again(reject)):
            found.setdefault(item, []).append((_tried(item, reject), n, id_))
    failed = _failed(states)
    most = {item: PLACES_TRIED if item in failed else 1 for item in found}
    return {item: [id_ for *_, id_ in sorted(wanting)[: most[item]]] for item, wanting in found.items()}


def _known(content: str, states: Mapping[str, State]) -> tuple[bool, bool, int]:
    """Whether an outcome of `content` stands anywhere, whether it has a vector, and how often it was tried.

    Rejects that tell of an item's place are no outcome of the content.
    """
    parts = [
        part for *_, part, _ in states.values()
        if content == (part.fingerprint if isinstance(part, Reject) else part)
        and not (isinstance(part, Reject) and part.of_place)
    ]  # fmt: skip
    rejects = [
        reject for _, _, reject, *_ in states.values()
        if reject and reject.fingerprint == content and not reject.of_place
    ]  # fmt: skip
    has_vector = content in parts or any(vector == content for _, vector, *_ in states.values())
    again = any(_again(reject) for reject in rejects)
    # Only rejects worth another try have their attempts counted.
    tried = [reject.attempts for reject in rejects if reject.retryable]
    return has_vector or bool(parts) or (bool(rejects) and not again), has_vector, max(tried, default=0)


@settings(max_examples=40)
@given(st.lists(STATE, min_size=1, max_size=40), st.sets(st.sampled_from(["a", "b", "c"])))
def test_classes_are_those_of_the_oracle(drawn: list[State], shared: set[str]) -> None:
    states = {str(i): state for i, state in enumerate(drawn)}
    counts, marks, stale = oracle(states, shared)
    live: list[tuple[str, str | Reject]] = [(i, s[1]) for i, s in states.items() if s[1] is not None]
    live += [(i, s[2]) for i, s in states.items() if s[2] is not None]
    parts = [(i, s[3]) for i, s in states.items() if s[3] is not None]
    items = {i: s[0] for i, s in states.items() if s[0] is not None}
    with tempfile.TemporaryDirectory() as folder:
        labels = {i: "another" for i, s in states.items() if s[4]}
        found = compared(Path(folder), items, live, parts, labels=labels, shared=shared)
    assert found.counts == counts
    assert dict(zip(items, found.to_do.tolist(), strict=True)) == marks
    assert {id_ for id_, is_stale in zip(items, found.stale.tolist(), strict=True) if is_stale} == stale


def forced(folder: Path, retry: Sequence[str], parts: Sequence[tuple[str, str | Reject]] = ()) -> dict[str, int]:
    """To-do marks with rejects forced: of live ones all have the code DECODE_TIMEOUT or, for good, IMAGE_UNREADABLE."""
    items = dict.fromkeys(("vector", "fresh", "fatal", "tired", "changed", "kept"), "a")
    rejects = {
        "fresh": Reject("a", True, 1),
        "fatal": Reject("a", False, 2),
        "tired": Reject("a", True, MAX_ATTEMPTS),
        "changed": Reject("b", False, 2),
        "kept": Reject("a", True, MAX_ATTEMPTS),
    }
    live: list[tuple[str, str | Reject]] = [("vector", "a"), ("kept", "b"), *rejects.items()]
    found = compared(folder, items, live, parts, retry=retry)
    return {id_: mark for id_, mark in zip(items, found.to_do.tolist(), strict=True) if mark}


def test_forced_rejects_are_tried_again_and_their_attempts_count_on(tmp_path: Path) -> None:
    assert forced(tmp_path / "1", ()) == {"fresh": 2, "changed": 1}
    assert forced(tmp_path / "2", ["NOT_FOUND"]) == {"fresh": 2, "changed": 1}
    assert forced(tmp_path / "3", ["NOT_FOUND", "IMAGE_UNREADABLE", "DECODE_TIMEOUT"]) == {
        "fresh": 2, "fatal": 3, "tired": 1 + MAX_ATTEMPTS, "changed": 1, "kept": 1 + MAX_ATTEMPTS,
    }  # fmt: skip


def test_a_forced_reject_that_a_killed_run_tried_is_done(tmp_path: Path) -> None:
    parts: list[tuple[str, str | Reject]] = [("fatal", Reject("a", False, 3)), ("tired", "a"), ("fresh", "b")]
    codes = ["IMAGE_UNREADABLE", "DECODE_TIMEOUT"]
    assert forced(tmp_path / "1", codes, parts) == {"fresh": 2, "changed": 1, "kept": 1 + MAX_ATTEMPTS}
    items, live = {"x": "a"}, [("x", Reject("a", False, 1))]
    counts = compared(tmp_path / "2", items, live, [("x", "a")]).counts
    assert (counts.retryable, counts.resumed) == (1, 1), "published by the next run, though that forces nothing"


def test_attempts_count_over_nights_and_kills_until_there_were_enough(tmp_path: Path) -> None:
    for tried in range(1, MAX_ATTEMPTS + 1):
        live: list[tuple[str, str | Reject]] = [("x", Reject("a", True, tried))]
        [mark] = compared(tmp_path / f"{tried}", {"x": "a"}, live).to_do.tolist()
        assert mark == (0 if tried == MAX_ATTEMPTS else 1 + tried)
        killed = compared(tmp_path / f"{tried} killed", {"x": "a"}, live, [("x", Reject("a", True, 1 + tried))])
        assert killed.to_do.tolist() == [0], "the part's own attempts are what the snapshot will have"


@settings(max_examples=5)
@given(st.lists(STATE, min_size=1, max_size=20))
def test_recomputing_does_all_that_no_part_has(drawn: list[State]) -> None:
    states = {str(i): state for i, state in enumerate(drawn)}
    live: list[tuple[str, str | Reject]] = [(i, s[1]) for i, s in states.items() if s[1] is not None]
    live += [(i, s[2]) for i, s in states.items() if s[2] is not None]
    parts = [(i, s[3]) for i, s in states.items() if s[3] is not None]
    items = {i: s[0] for i, s in states.items() if s[0] is not None}
    with tempfile.TemporaryDirectory() as folder:
        found = compared(Path(folder), items, live, parts, recompute=True)
    done = {id_ for id_, made in parts if items.get(id_) == (made.fingerprint if isinstance(made, Reject) else made)}
    ids = {id_ for id_, _ in live}
    assert {id_ for id_, mark in zip(items, found.to_do.tolist(), strict=True) if mark} == items.keys() - done
    counts = found.counts
    assert (counts.new, counts.recomputed) == (len(items.keys() - ids), len(items.keys() & ids))
    assert (counts.resumed, counts.to_do) == (len(done), len(items.keys() - done))
    assert (counts.deleted, counts.live) == (len(ids - items.keys()), len(ids))
    assert (counts.changed, counts.carried, counts.unchanged, counts.retryable) == (0, 0, 0, 0)


def test_recomputing_does_a_shared_content_once(tmp_path: Path) -> None:
    items = {"a": "f", "a2": "f", "b": "g", "b2": "g"}
    found = compared(tmp_path, items, [("a", "f"), ("b", "g")], [("b2", "g")], shared=["f", "g"], recompute=True)
    assert found.to_do.tolist() == [1, 0, 0, 0]
    assert (found.counts.recomputed, found.counts.new, found.counts.duplicates) == (2, 2, 2)


def test_int_ids_meet_their_strings(tmp_path: Path) -> None:
    found = compared(
        tmp_path, {"7": "a", "-8": "b", "9": "c"}, [("7", "a"), ("-8", "x"), ("10", "c")], id_type=pa.int64()
    )
    assert found.to_do.tolist() == [0, 1, 1]
    assert (found.counts.unchanged, found.counts.changed, found.counts.new, found.counts.deleted) == (1, 1, 1, 1)


def test_hostile_ids_are_only_ids(tmp_path: Path) -> None:
    items = dict.fromkeys(HOSTILE_IDS, "a")
    found = compared(tmp_path, items, [(id_, "a") for id_ in HOSTILE_IDS])
    assert found.counts.unchanged == len(HOSTILE_IDS)
    assert found.to_do.sum() == 0


def test_duplicates_are_counted_and_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    ids = ["x"] * 3 + [f"d{i}" for i in range(7)] * 2 + ["once"]
    path = write_parquet(tmp_path / "i.parquet", items_table([(id_, "f") for id_ in ids]))
    with pytest.raises(ManifestError) as error:
        compare(path, store, live=(), parts=(), max_attempts=3)
    assert "8 duplicate ids" in str(error.value)
    assert "'x' (3 rows), 'd0' (2 rows), 'd1' (2 rows), 'd2' (2 rows), 'd3' (2 rows)" in str(error.value)
    assert "'d4'" not in str(error.value)


def test_ids_alone_are_checked_over_many_arrays(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    unique = [pa.array([f"{n}.{i}" for i in range(1000)]) for n in range(5)]
    check_ids(unique, store)
    check_ids([], store)
    with pytest.raises(ManifestError, match=r"2 duplicate ids; expected each id once; found '0\.0' \(3 rows\), '3\.7'"):
        check_ids([*unique, pa.array(["0.0", "3.7", "0.0"])], store)
