"""Items of one content at several places, some of them dead: what can be read somewhere gets its vector everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.living_lake import Content
from tests.fixtures.manifests import write_jsonl
from tests.fixtures.nightly import SPECS, live_rejects, live_vectors, run_night

PICTURE = b"a picture"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def config(folder: Path, **run: object) -> Config:
    """Five items that say that they are the same picture."""
    rows = [
        {"id": f"i{n}", "image": f"{n}.png", "content_hash": hashlib.sha256(PICTURE).hexdigest(), "label": f"l{n}"}
        for n in range(5)
    ]
    return Config.model_validate(
        {
            "manifest": {"path": str(write_jsonl(folder / "m.jsonl", rows)), "carry": ["label"]},
            "output": {"path": str(folder / "out"), "vectors": [spec.model_dump() for spec in SPECS]},
            "model": {"path": "stand-in"},
            "run": run,
        }
    )


def test_a_dead_link_leads_its_content_once(tmp_path: Path, store: Store) -> None:
    for n in (3, 4):
        (tmp_path / f"{n}.png").write_bytes(PICTURE)
    first = run_night(config(tmp_path), store, "night-1")
    assert (first.counts.to_do, first.counts.duplicates) == (1, 4)
    assert (live_vectors(store), live_rejects(store)) == ({}, {f"i{n}" for n in range(5)})
    assert verify(store) == []
    second = run_night(config(tmp_path), store, "night-2")
    assert (second.counts.to_do, second.counts.duplicates) == (5, 0), "each at its own place"
    assert {id_: label for id_, (_, label) in live_vectors(store).items()} == {f"i{n}": f"l{n}" for n in range(5)}
    assert live_rejects(store) == set()
    again = run_night(config(tmp_path), store, "night-3")
    assert (again.counts.to_do, again.snapshot) == (0, None)


def test_a_link_found_dead_by_a_killed_run_carries_its_own_values(tmp_path: Path, store: Store) -> None:
    (tmp_path / "1.png").write_bytes(PICTURE)
    settings = config(tmp_path, block_items=1)
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write('{"id": "text", "text": "t", "label": "l"}\n')

    def killed(content: Content) -> NDArray[np.float32]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_night(settings, store, "night-1", killed)
    assert run_night(settings, store, "night-2").counts.resumed == 1
    labels = {id_: label for id_, (_, label) in live_vectors(store).items()}
    assert labels == {f"i{n}": f"l{n}" for n in range(5)} | {"text": "l"}


def test_of_very_many_places_some_are_tried_each_night(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.comparison.PLACES_TRIED", 2)
    (tmp_path / "4.png").write_bytes(PICTURE)
    led = [run_night(config(tmp_path), store, f"night-{night}").counts.to_do for night in range(4)]
    assert led == [1, 2, 2, 0], "i0; then those that were never tried: i1 and i2, i3 and i4"
    assert set(live_vectors(store)) == {f"i{n}" for n in range(5)}


def test_where_all_are_dead_each_is_tried_as_often_as_any_item(tmp_path: Path, store: Store) -> None:
    led = [run_night(config(tmp_path), store, f"night-{night}").counts.to_do for night in range(5)]
    assert led == [1, 5, 5, 4, 0]
    again = run_night(config(tmp_path), store, "night-5")
    assert (again.counts.unchanged, again.snapshot) == (5, None)
    (tmp_path / "2.png").write_bytes(PICTURE)
    assert run_night(config(tmp_path, retry="SOURCE_CHANGED"), store, "night-6").counts.to_do == 5
    assert set(live_vectors(store)) == {f"i{n}" for n in range(5)}
