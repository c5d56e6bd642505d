"""A month of nights of the real job: killed, stopped, suspended, overlapping, restored, and always true."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.embedder import Embedder
from pipeline.errors import ExitCode
from pipeline.index.log import Log
from tests.fixtures.faulty_store import fault_seed
from tests.fixtures.indexed_lake import Ended, IndexedLake, Process
from tests.fixtures.living_lake import Content, LivingLake, Night, Truth
from tests.fixtures.ray_head import RayHead
from tests.fixtures.tiny_model import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

NIGHTS, ITEMS = map(int, os.environ.get("LAKEVEC_MONTH", "30x2000").split("x"))
"""Nights and items. All that can befall a run needs 12 nights at least: LAKEVEC_MONTH=12x60 takes some minutes."""

CALM = Night(insert=0.02, duplicate=0.02, delete=0.04)
"""As many items come as go."""

BUSY = replace(CALM, update=0.15)
"""Enough to do that a run is met in the middle of it."""

SLOWLY = ("--set", "run.block_items=2")
"""Some ten seconds and more of a busy night, and commits all along: whoever watches the run sees it alive."""


KILLS = 12
KILLED_ITEMS = 400
BIG = Night(insert=0.2, update=0.4)


class Trouble(StrEnum):
    """What befalls a night's run."""

    NONE = "none"
    KILLED = "killed after a commit"
    KILLED_EARLY = "killed before any commit"
    CHANGED = "killed, and the lake has changed when it is resumed"
    STOPPED = "told to stop"
    OVERLAP = "started twice"
    SUSPENDED = "suspended, taken over, and awake again"


class Evening(StrEnum):
    """What is done after a night."""

    NOTHING = "nothing"
    COLLECT = "gc"
    RESTORE = "restore"


TROUBLES = (
    *(4 * [Trouble.KILLED]),
    *(3 * [Trouble.OVERLAP]),
    Trouble.KILLED_EARLY,
    Trouble.CHANGED,
    Trouble.STOPPED,
    Trouble.SUSPENDED,
)
EVENINGS = (Evening.COLLECT, Evening.COLLECT, Evening.RESTORE)


@pytest.fixture(scope="module")
def embed() -> Iterator[Callable[[Content], NDArray[np.float32]]]:
    """The library's vector of one content, alone in its forward as `model.deterministic` has it."""
    with Embedder(str(tiny_model()), dtype="float32") as embedder:

        def one(content: Content) -> NDArray[np.float32]:
            given = {"text": content.text, "image": content.image}
            return embedder.embed([{name: value for name, value in given.items() if value is not None}])[0]

        yield one


def test_a_month(tmp_path: Path, ray_head: RayHead, embed: Callable[[Content], NDArray[np.float32]]) -> None:
    dice = random.Random(fault_seed())
    lake = LivingLake(tmp_path / "lake", dice.randrange(1 << 32))
    lake.fill(ITEMS)
    index = IndexedLake.of(lake, Truth(embed), tmp_path, ray_head.address)
    troubles = shuffled(dice, TROUBLES, NIGHTS - 1, Trouble.NONE)
    evenings = shuffled(dice, EVENINGS, NIGHTS - 2, Evening.NOTHING)
    for night, (trouble, evening) in enumerate(
        zip([Trouble.NONE, *troubles], [Evening.NOTHING, *evenings, Evening.NOTHING], strict=True)
    ):
        began_s = time.monotonic()
        if night:
            index.pass_a_day(CALM if trouble is Trouble.NONE else BUSY)
        else:
            lake.write()
        index.settle(live_through(index, trouble))
        if evening is Evening.COLLECT:
            index.collect(keep=2)
        elif evening is Evening.RESTORE:
            index.restore_yesterday()
        print(
            f"night {night}: {trouble}; {len(lake.items)} items; evening: {evening}; {time.monotonic() - began_s:.1f} s"
        )


def shuffled(dice: random.Random, some: tuple[StrEnum, ...], n: int, rest: StrEnum) -> list[StrEnum]:
    """`some` at random places of `n`, and `rest` elsewhere."""
    filled = [*some, *[rest] * (n - len(some))]
    dice.shuffle(filled)
    return filled


def live_through(index: IndexedLake, trouble: StrEnum) -> int:
    """A night's runs until one is complete. What that has encoded; the index counts what the others committed."""
    process = index.start(*(SLOWLY if trouble in (Trouble.OVERLAP, Trouble.SUSPENDED) else ()))
    if trouble is Trouble.OVERLAP:
        return overlap(index, process, index.start(*SLOWLY))
    if trouble is Trouble.SUSPENDED:
        return suspend(index, process)
    if trouble is Trouble.NONE:
        return index.complete(process).encoded
    index.until(index.owned_by(process) if trouble is Trouble.KILLED_EARLY else index.progressed(process), process)
    if trouble is Trouble.STOPPED:
        process.send_signal(signal.SIGTERM)
        stopped = index.end(process)
        assert stopped.code == ExitCode.INCOMPLETE, stopped.out
        assert index.count_parts() == stopped.encoded, "what is done is committed"
    else:
        index.kill(process)
    if trouble is Trouble.KILLED_EARLY:
        assert not Log(index.store).state().progress
    if trouble is Trouble.CHANGED:
        index.pass_a_day(BUSY)
    return index.complete(index.start()).encoded


def overlap(index: IndexedLake, one: Process, other: Process) -> int:
    """Two runs started at the same time: one does the night, the other names it and leaves."""
    ended = sorted((index.end(one), index.end(other)), key=lambda each: each.code)
    complete, refused = ended
    assert (complete.code, refused.code) == (ExitCode.COMPLETE, ExitCode.NOT_OURS), f"{complete.out}\n{refused.out}"
    assert f"belongs to run {complete.run_id}" in refused.out
    assert refused.encoded == 0
    return complete.encoded


def suspend(index: IndexedLake, first: Process) -> int:
    """A run is suspended until another has taken over, wakes in the middle of that one, and can do nothing."""
    index.until(index.progressed(first), first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        index.count_parts()
        # On a Ray of its own: the tasks of a suspended driver may hold every CPU that there is on theirs.
        second = index.start(*SLOWLY, "--set", "resources.address=local")
        index.until(index.progressed(second), second)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    late, complete = index.end(first), index.complete(second)
    assert late.code == ExitCode.NOT_OURS, late.out
    assert f"run {complete.run_id} has taken over" in late.out
    return complete.encoded


def test_killed_at_any_moment(
    tmp_path: Path, ray_head: RayHead, embed: Callable[[Content], NDArray[np.float32]]
) -> None:
    dice = random.Random(fault_seed())
    lake = LivingLake(tmp_path / "lake", dice.randrange(1 << 32))
    lake.fill(KILLED_ITEMS)
    lake.write()
    index = IndexedLake.of(lake, Truth(embed), tmp_path, ray_head.address)
    began_s = time.monotonic()
    process = index.start()
    complete = index.complete(process)
    took_s = time.monotonic() - began_s
    index.settle(complete.encoded)
    kills = 0
    while kills < KILLS:
        if index.is_settled():
            index.pass_a_day(BIG)
        ended = kill_sometime(index, dice, took_s)
        if ended:
            index.settle(ended.encoded)
            continue
        kills += 1
        index.check_soundness()
        if index.shows(lake.items):  # met between its snapshot and its end
            index.settle(0)
        else:
            assert index.shows(index.history[-1]), "readers see the night before until all is there"
    if not index.is_settled():
        index.settle(index.complete(index.start()).encoded)


def kill_sometime(index: IndexedLake, dice: random.Random, took_s: float) -> Ended | None:
    """Start a run and kill it at a random moment of its life. How it ended, if it was faster."""
    process = index.start()
    moments = {"start": None, "claim": index.owned_by(process), "commit": index.progressed(process)}
    name, since = dice.choice(list(moments.items()))
    if since:
        index.until(lambda: process.poll() is not None or since())
    # The later the moment, the less is left of a run; a third of them is to meet it in its last seconds.
    delay_s = dice.uniform(0, took_s / {"start": 1, "claim": 2, "commit": 4}[name])
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        said = index.kill(process)
        print(f"killed {delay_s:.1f} s after its {name}; the last it said: {said.splitlines()[-1:]}")
        return None
    return index.complete(process)
