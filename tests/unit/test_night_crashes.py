"""A night that dies at any storage operation of planning, writing, committing and swapping, then runs again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.index.verify import verify
from pipeline.storage import Store, open_store
from tests.fixtures.faulty_store import CrashPoint, crash_points, dies, fault_seed
from tests.fixtures.living_lake import LivingLake, Night, Truth
from tests.fixtures.nightly import fake_vector, lake_config, live_rejects, live_vectors, run_night

SHARED_MEMORY = Path("/dev/shm")

ITEMS = 12
"""Few: a night has about a hundred operations, and is run twice for every moment in each of them."""


class Nights:
    """An index after its first night, and the lake as the second night finds it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lake = LivingLake(folder / "lake", seed=7)
        self.lake.fill(ITEMS)
        self.lake.write()
        self.truth = Truth(fake_vector)
        self.before = open_store(str(folder / "before"))
        run_night(lake_config(self.lake, self.before.root, max_delete_fraction=1), self.before, "night-1")
        self.old = (live_vectors(self.before), live_rejects(self.before))
        self.truth.settle(self.lake.items)
        self.lake.live(Night(insert=0.3, update=0.2, delete=0.2, relabel=0.2, duplicate=0.3, rename=0.1, vanish=0.1))
        self.lake.write()
        self.new = (self.truth.vectors(self.lake.items), self.truth.rejects(self.lake.items))

    def again(self, name: str) -> Store:
        """A copy of the index as the first night left it."""
        shutil.copytree(self.folder / "before", self.folder / name)
        return open_store(str(self.folder / name))

    def run(self, store: Store, run_id: str) -> int:
        """The second night; how many items it embedded."""
        return run_night(lake_config(self.lake, store.root, max_delete_fraction=1), store, run_id).encoded


def check(nights: Nights, point: CrashPoint) -> None:
    """Readers see the one night or the other, and the next run makes it the second, embedding nothing twice."""
    store = nights.again(f"{point.at}-{point.moment}")
    died = dies(lambda failing: nights.run(failing, "night-2"), store, point)
    alive = open_store(store.root)
    assert verify(alive) == [], point
    seen = (live_vectors(alive), live_rejects(alive))
    assert seen in (nights.old, nights.new), point
    encoded = nights.run(alive, "night-2-again")
    assert (live_vectors(alive), live_rejects(alive)) == nights.new, point
    assert verify(alive) == [], point
    if seen == nights.new:
        assert encoded == 0, point
    assert encoded <= nights.truth.to_embed(nights.lake.items), point
    assert died or seen == nights.new, point
    shutil.rmtree(store.root)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of fsyncs take minutes on a disk."""
    if not SHARED_MEMORY.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="lakevec-nights-", dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def test_a_night_may_die_at_any_storage_operation(memory: Path) -> None:
    nights = Nights(memory)
    points = crash_points(lambda store: nights.run(store, "night-2"), nights.again("whole"), fault_seed())
    print(f"{len(points)} crash points")
    assert {point.operation for point in points} >= {"put_if_absent", "open_output", "upload", "delete", "list"}
    for point in points:
        check(nights, point)
