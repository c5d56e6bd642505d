from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ConfigError, OwnershipError
from pipeline.index.claim import Claim
from pipeline.index.collect import collect_garbage
from pipeline.index.commits import CommitKind
from pipeline.index.files import live_files, made_by, snapshots
from pipeline.index.log import Log
from pipeline.index.restore import restore
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_store import pausing
from tests.fixtures.histories import said, score_night, vector_night, vector_nights
from tests.fixtures.index_cases import FINGERPRINT, changes_of


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_readers_see_the_earlier_state_again(store: Store) -> None:
    nights = vector_nights(store, 3)
    before = said(store, nights[0])
    restored = restore(store, nights[0].seq, "back")
    assert snapshots(store) == [restored, *reversed(nights)]
    assert said(store, restored) == before
    assert live_files(store) == live_files(store, snapshot=nights[0].seq)
    assert live_files(store, "rejects", nights[2].seq) == [e for e in nights[2].live if e.table == "rejects"]
    assert restored.info == nights[0].info | {
        "restored_from": {"seq": nights[0].seq, "run_id": "night1"},
        "changes": restored.info["changes"],
    }
    ops = changes_of(store, restored.run_id)
    old, new = ({key[0] for key in said(store, each) if key[1] == "vectors"} for each in (nights[2], restored))
    assert {id_ for id_, op in ops.items() if op == "insert"} == new - old
    assert {id_ for id_, op in ops.items() if op == "delete"} == old - new
    assert set(restored.removed) == {e.path for e in nights[2].live} - {e.path for e in nights[0].live}
    assert {e.path for e in restored.added} == {e.path for e in nights[0].live} - {e.path for e in nights[2].live}
    assert (restored.fingerprint, made_by(restored)) == (nights[0].fingerprint, "night1")
    assert Log(store).state().claim is None
    assert verify(store) == []


def test_the_next_night_starts_from_what_was_restored(local: Store) -> None:
    nights = vector_nights(local, 3)
    restored = restore(local, nights[0].seq, "back")
    after = vector_night(local, 4)
    assert {e.path for e in restored.live} & set(after.removed)
    assert said(local, after)[("a", "vectors")] == ("f4", 4, False)
    collect_garbage(local, "gc", keep=1)
    assert verify(local) == []


def test_another_models_snapshot_is_restored_with_its_fingerprint(local: Store) -> None:
    first = vector_night(local, 1)
    with Claim.acquire(local, "other", fingerprint="another model") as claim:
        claim.commit(CommitKind.SNAPSHOT, live=first.live, info=first.info | {"changes": {"path": "c", "rows": 1}})
    newest = snapshots(local)[0]
    assert restore(local, first.seq, "back").fingerprint == FINGERPRINT
    again = restore(local, newest.seq, "forth")
    assert again.fingerprint == "another model"
    assert again.info["changes"]["path"] == "changes/run=forth.parquet"
    assert made_by(restore(local, snapshots(local)[1].seq, "back-again")) == "night1"


def test_scores_are_restored_too(local: Store) -> None:
    nights = [score_night(local, night) for night in (1, 2)]
    assert restore(local, nights[0].seq, "back").live == nights[0].live
    assert verify(local) == []


def test_the_newest_snapshot_needs_no_restoring(local: Store) -> None:
    nights = vector_nights(local, 2)
    assert restore(local, nights[1].seq, "back") == nights[1]
    assert snapshots(local) == list(reversed(nights))


def test_a_snapshot_whose_files_are_gone_is_refused(local: Store) -> None:
    nights = vector_nights(local, 3)
    gone, cut = (entry.path for entry in nights[0].live[:2])
    local.delete(gone)
    local.put(cut, b"cut")
    with pytest.raises(ConfigError, match=rf"snapshot {nights[0].seq} cannot be restored, 2 of its 2 files") as error:
        restore(local, nights[0].seq, "back")
    assert gone in str(error.value)
    assert cut in str(error.value)
    assert snapshots(local)[0] == nights[2]
    assert Log(local).state().claim is None


@pytest.mark.parametrize("seq", [1, 99])
def test_a_number_that_is_no_snapshot_is_refused(local: Store, seq: int) -> None:
    nights = vector_nights(local, 2)
    with pytest.raises(ConfigError, match=f"no snapshot {seq}; it has {nights[1].seq}, {nights[0].seq}"):
        restore(local, seq, "back")
    with pytest.raises(ConfigError, match=f"no snapshot {seq}"):
        live_files(local, snapshot=seq)


def test_a_place_that_is_no_output_is_refused(local: Store) -> None:
    with pytest.raises(ConfigError, match="no lakevec output"):
        restore(local, 1, "back")
    assert local.list() == []


def test_a_live_run_keeps_its_output(local: Store) -> None:
    nights = vector_nights(local, 2)
    with (
        Claim.acquire(local, "alive", fingerprint=FINGERPRINT, renew_s=0.02),
        pytest.raises(OwnershipError, match="belongs to run alive"),
    ):
        restore(local, nights[0].seq, "back", quiet_s=2.0)
    assert snapshots(local)[0] == nights[1]


def test_a_snapshot_collected_before_the_claim_is_not_restored(local: Store) -> None:
    nights = vector_nights(local, 3)
    late = pausing(local, "put_if_absent", "_log/0", lambda: collect_garbage(local, "gc", keep=1))
    with pytest.raises(ConfigError, match=f"no snapshot {nights[0].seq}; it has {nights[2].seq}"):
        restore(late, nights[0].seq, "back")
    assert snapshots(local) == [nights[2]]
    assert verify(local) == []
