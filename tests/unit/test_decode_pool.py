"""Children that hang, die and eat memory: the item is a reject with its code, all others come through, nobody stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pipeline.config import DecodeConfig
from pipeline.decode_child import Read
from pipeline.decode_launch import LaunchContext
from pipeline.decode_pool import DecodePool
from pipeline.errors import ConfigError, LakevecError, RejectError
from pipeline.preparation import AHEAD_ITEMS, Preparation
from tests.fixtures.harmful import harmful, items
from tests.fixtures.jobs import ROOT

KILLS = 5

LIMITS = DecodeConfig(timeout_s=2, memory_mb=512)


def made_of(pool: DecodePool, contents: Iterable[bytes | None]) -> list[int | RejectError]:
    made = list(Preparation(pool).many(items(contents)))
    assert [place for place, _ in made] == list(range(len(made)))
    return [got for _, got in made]


def outcomes(pool: DecodePool, contents: Iterable[bytes | None]) -> list[int | str]:
    return [str(got.code) if isinstance(got, RejectError) else got for got in made_of(pool, contents)]


def detail(pool: DecodePool, order: bytes) -> str:
    (got,) = made_of(pool, [order])
    assert isinstance(got, RejectError)
    return got.detail


def with_harm(n: int, harm: dict[int, bytes]) -> list[bytes]:
    return [harm.get(place, b"%d" % place) for place in range(n)]


def expected(contents: Iterable[bytes], code: str) -> list[int | str]:
    return [int(content) % 251 if content.isdigit() else code for content in contents]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[BaseProcess]:
    """Every child that was started."""
    found: list[BaseProcess] = []
    sound: Callable[..., BaseProcess] = LaunchContext.Process

    def noted(self: LaunchContext, **settings: object) -> BaseProcess:
        found.append(sound(self, **settings))
        return found[-1]

    monkeypatch.setattr(LaunchContext, "Process", noted)
    return found


def test_ten_segfaults_among_a_thousand_cost_ten_rows_and_twenty_children(started: list[BaseProcess]) -> None:
    contents = with_harm(1000, dict.fromkeys(range(50, 1000, 100), b"segfault"))
    with DecodePool(harmful, LIMITS) as pool:
        results = outcomes(pool, contents)
    assert results == expected(contents, "DECODER_CRASHED")
    assert results.count("DECODER_CRASHED") == 10
    assert sum(child.exitcode == -signal.SIGSEGV for child in started) == 20


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (b"hang", "DECODE_TIMEOUT"),
        (b"spin", "DECODE_TIMEOUT"),
        (b"allocate", "DECODE_MEMORY"),
        (b"abort", "DECODER_CRASHED"),
        (b"defect", "PREPARE_FAILED"),
        (b"refuse", "IMAGE_UNREADABLE"),
    ],
)
def test_what_happens_to_one_item_happens_to_it_alone(order: bytes, code: str) -> None:
    contents = with_harm(12, {3: order, 4: order})
    with DecodePool(harmful, LIMITS) as pool:
        began = time.monotonic()
        assert outcomes(pool, contents) == expected(contents, code)
    # Two items, two tries each; what is between them is the children's way back.
    assert time.monotonic() - began < 4 * LIMITS.timeout_s + 30


def test_the_reject_of_a_dead_child_says_how_it_died() -> None:
    with DecodePool(harmful, LIMITS) as pool:
        assert detail(pool, b"segfault") == "the decoding process died of it twice, the last time by signal 11"
        assert detail(pool, b"hang") == "twice not done within 2 s"
        assert detail(pool, b"defect") == "ZeroDivisionError: a defect of ours"


def unable() -> Read:
    raise ConfigError("nothing to decode with")


def test_children_that_cannot_be_equipped_are_no_item_s_fault() -> None:
    with DecodePool(unable, LIMITS) as pool, pytest.raises(ConfigError, match="nothing to decode with"):
        outcomes(pool, [b"1"])


def test_where_no_child_starts_the_job_ends_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.decode_pool.start", unable)
    with DecodePool(harmful, LIMITS) as pool, pytest.raises(LakevecError, match="no decoding process starts here"):
        outcomes(pool, [b"1"])


def test_texts_start_no_child(started: list[BaseProcess]) -> None:
    with DecodePool(harmful, LIMITS) as pool:
        assert outcomes(pool, [None, None]) == [-1, -1]
    assert started == []


def test_several_children_keep_the_order_and_their_items() -> None:
    contents = with_harm(60, {7: b"segfault", 8: b"hang", 30: b"abort"})
    with DecodePool(harmful, LIMITS, processes=2) as pool:
        results = outcomes(pool, contents)
    assert [got for got in results if isinstance(got, str)] == ["DECODER_CRASHED", "DECODE_TIMEOUT", "DECODER_CRASHED"]
    assert expected(contents, "") == [got if isinstance(got, int) else "" for got in results]


def test_children_killed_in_the_middle_of_a_message_cost_nothing() -> None:
    # Large bytes, so that nearly all of a child's time goes into being told: half a message breaks pebble's pool.
    contents = [b"%09d" % n + bytes(8 << 20) for n in range(40)]
    killed: list[int] = []
    results: list[int | RejectError] = []

    def kill() -> None:
        rng = random.Random(7)
        for _ in range(KILLS):
            # All that the last kill lost came through meanwhile: of an item's two tries this can only be the first.
            came, until = len(results), time.monotonic() + 60
            while len(results) <= came + AHEAD_ITEMS + 1 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(rng.random() / 2)
            for server in children_of(os.getpid()):
                for child in children_of(server) if b"multiprocessing.forkserver" in command_of(server) else []:
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)

    killer = threading.Thread(target=kill, daemon=True)
    with DecodePool(harmful, DecodeConfig(timeout_s=60)) as pool:
        pool.check().result()
        killer.start()
        while killer.is_alive():
            for _, got in Preparation(pool).many(items(contents)):
                results.append(got)
        killer.join()
        right = [n % 251 for n in range(len(contents))]
        assert outcomes(pool, contents) == right
    assert len(killed) >= KILLS
    assert results == right * (len(results) // len(right))


def test_a_child_can_reach_nothing_and_remembers_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANA" + "RY-7f3a-secret" * 3)
    monkeypatch.setenv("MY_HF_TOKEN", "CANA" + "RY-7f3a-secret" + "x" * 900)
    # To read all of its memory takes a child a second where the machine is busy.
    with DecodePool(harmful, DecodeConfig(timeout_s=60, memory_mb=512)) as pool:
        assert detail(pool, b"try") == "nothing"
        assert detail(pool, b"remember") == "0"
        if pool.check().result().has_no_network:
            assert detail(pool, b"try natively") == "nothing"
        else:
            assert "write" not in detail(pool, b"try natively")
    assert os.environ["AWS_SECRET_ACCESS_KEY"].startswith("CANA")  # it is the children that forget


OWNER = """
import sys, time
from pipeline.config import DecodeConfig
from pipeline.decode_pool import DecodePool
from tests.fixtures.harmful import harmful, items
pool = DecodePool(harmful, DecodeConfig(timeout_s=600))
print(pool.check().result().pid, flush=True)
((_, item, maker),) = items([b"hang"])
pool.submit(maker.job(item))
time.sleep(600)
"""
"""A script without a guard of its main module, besides: no child may run it again."""


def test_a_killed_owner_leaves_no_child_behind_not_even_a_hung_one(tmp_path: Path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment)
    try:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        family = {owner.pid, *(pid for each in children_of(owner.pid) for pid in (each, *children_of(each)))}
        assert child in family
        time.sleep(1)  # the hang has begun
        assert is_alive(child)
    finally:
        owner.kill()
        owner.wait()
    until = time.monotonic() + 20
    while any(map(is_alive, family)) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in family if is_alive(pid)] == []


def test_closing_ends_every_process() -> None:
    before = set(children_of(os.getpid()))
    pool = DecodePool(harmful, LIMITS)
    child = pool.check().result().pid
    pool.close()
    assert not is_alive(child)
    trackers = {pid for pid in children_of(os.getpid()) if b"resource_tracker" in command_of(pid)}
    assert set(children_of(os.getpid())) - trackers <= before
    assert outcomes(pool, [b"5"]) == [5]  # and the next job starts anew
    pool.close()


def test_where_no_namespace_is_to_be_had_the_hook_holds() -> None:
    script = (
        "import os, socket\n"
        "from pipeline.confinement import leave_network, refuse_reaching_out\n"
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "os.setresuid(65534, 65534, 65534) if os.getuid() == 0 else None\n"
        # Not root any more, and not alone: the kernel refuses both ways in.
        "print(leave_network())\n"
        "refuse_reaching_out()\n"
        "look_up, write = lambda: socket.getaddrinfo(b'localhost', 1), lambda: open('/tmp/x', 'a')\n"
        "for deed in (socket.socket, look_up, write):\n"
        "    try: deed()\n"
        "    except PermissionError as error: print(error)\n"
        "print(open('/proc/self/stat').read(1) != '')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    refused = "a decoding process may not reach out: "
    assert done.stdout.splitlines() == [
        "False", refused + "socket.__new__", refused + "socket.getaddrinfo", refused + "open for writing", "True",
    ]  # fmt: skip


def children_of(pid: int) -> list[int]:
    return [int(each.name) for each in Path("/proc").glob("[0-9]*") if parent_of(each) == pid]


def parent_of(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_variable_of_one_character_that_is_named_like_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python has one object for each single byte: wiping it once broke the child's own code.
    monkeypatch.setenv("MY_TOKEN", "1")
    with DecodePool(harmful, LIMITS) as pool:
        assert pool.check().result(60).pid != os.getpid()
