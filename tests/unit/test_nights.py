"""Nights over a living lake against an oracle that shares nothing with planning."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.index_cases import changes_of
from tests.fixtures.living_lake import LivingLake, Truth
from tests.fixtures.nightly import fake_vector, lake_config, live_rejects, live_vectors, run_night


def assert_true(store: Store, lake: LivingLake, truth: Truth) -> None:
    """The live tables are what a full run would give, and every promise of the index holds."""
    assert live_vectors(store) == truth.vectors(lake.items)
    assert live_rejects(store) == truth.rejects(lake.items)
    assert verify(store) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_five_nights_of_a_living_lake(tmp_path: Path, seed: int) -> None:
    lake = LivingLake(tmp_path / "lake", seed)
    lake.fill(200)
    store = open_store(str(tmp_path / "out"))
    config = lake_config(lake, str(tmp_path / "out"))
    truth = Truth(fake_vector)
    followed: dict[str, tuple[tuple[float, ...], str]] = {}
    for night in range(5):
        if night:
            lake.live()
        lake.write()
        run = run_night(config, store, f"night-{night}")
        assert run.encoded == truth.to_embed(lake.items)
        truth.settle(lake.items)
        assert_true(store, lake, truth)
        live = live_vectors(store)
        for id_, op in changes_of(store, f"night-{night}").items():
            assert (id_ in followed) == (op != "insert")
            followed.pop(id_, None)
            if op != "delete":
                followed[id_] = live[id_]
        assert followed == live, "who applies the changes holds the live table"
        again = run_night(config, store, f"again-{night}")
        assert (again.encoded, again.counts.to_do, again.snapshot) == (0, 0, None)
