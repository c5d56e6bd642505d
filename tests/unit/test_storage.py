from __future__ import annotations

import contextlib
import errno
import gc
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.errors import ConfigError
from pipeline.storage import Store, Stored, open_store, resolve
from pipeline.storage_errors import is_transient, may_exist
from tests.fixtures.faulty_store import FaultyFilesystem, faulty
from tests.fixtures.s3_server import S3Server


def _client_error(status: int, code: str = "X") -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")


def _translated(status: int, number: int) -> OSError:
    error = OSError(number, "said the server")
    error.__cause__ = _client_error(status)
    return error


SLOW_DOWN = _translated(503, errno.EBUSY)


@pytest.fixture
def memory() -> Store:
    fs = MemoryFileSystem(skip_instance_cache=True)
    fs.store = {}
    return Store(root="memory://out", base="/out", fs=fs)


def test_files_come_back_as_put(store: Store) -> None:
    store.put("a/b.txt", b"one")
    store.put("a/b.txt", b"three")
    assert store.read("a/b.txt") == b"three"
    assert store.size("a/b.txt") == 5
    assert store.exists("a/b.txt")
    assert not store.exists("a/c.txt")
    store.delete("a/b.txt")
    store.delete("a/b.txt")
    assert not store.exists("a/b.txt")
    with pytest.raises(FileNotFoundError):
        store.read("a/b.txt")
    with pytest.raises(FileNotFoundError):
        store.open_input("a/b.txt")


def test_list_is_recursive_relative_sorted_and_fresh(store: Store) -> None:
    assert store.list() == []
    assert store.list("t") == []
    for path in ("t/run=2/x", "t/run=1/y", "tt/z", "t/a"):
        store.put(path, path.encode())
    expected = [Stored("t/a", 3), Stored("t/run=1/y", 9), Stored("t/run=2/x", 9)]
    assert store.list("t") == expected
    assert store.list() == [*expected, Stored("tt/z", 4)]
    store.put("t/b", b"")
    assert Stored("t/b", 0) in store.list("t")


def test_put_if_absent_keeps_the_first(store: Store) -> None:
    assert store.put_if_absent("log/1", b"mine")
    assert not store.put_if_absent("log/1", b"yours")
    assert store.read("log/1") == b"mine"
    assert [file.path for file in store.list()] == ["log/1"]


def test_sixteen_racers_one_winner(store: Store) -> None:
    start = threading.Barrier(16)

    def race(n: int) -> bool:
        start.wait()
        return store.put_if_absent("key", b"racer %d" % n)

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(race, range(16)))
    assert sum(won) == 1
    assert store.read("key") == b"racer %d" % won.index(True)


def _race_in_process(store: Store, n: int) -> list[bool]:
    return [store.put_if_absent(f"key{key}", b"process %d" % n) for key in range(40)]


def test_racing_processes_have_one_winner_a_key(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(_race_in_process, [store] * 4, range(4)))
    for key in range(40):
        won = [result[key] for result in results]
        assert sum(won) == 1
        assert store.read(f"key{key}") == b"process %d" % won.index(True)


def test_output_appears_whole_or_not_at_all(store: Store) -> None:
    with store.open_output("good") as file:
        file.write(b"12")
        assert not store.exists("good")
        file.write(b"34")
    with contextlib.suppress(KeyError), store.open_output("bad") as file:
        file.write(b"12")
        raise KeyError
    gc.collect()
    assert store.list() == [Stored("good", 4)]
    with store.open_input("good") as file:
        file.seek(1)
        assert file.read(2) == b"23"


def test_upload_copies_a_local_file(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 5000)
    store.put("there/it", b"old")
    store.upload(str(source), "there/it")
    assert store.read("there/it") == source.read_bytes()


def test_a_store_survives_pickling(store: Store) -> None:
    copy: Store = pickle.loads(pickle.dumps(store))
    copy.put("x", b"1")
    assert store.read("x") == b"1"
    assert copy.uri("x") == store.uri("x")


def test_local_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fs, path = resolve("some/folder/", {})
    assert isinstance(fs, LocalFileSystem)
    assert path == str(tmp_path / "some/folder")
    assert resolve(f"file://{tmp_path}/x", {})[1] == f"{tmp_path}/x"
    assert open_store("out").uri("a") == f"file://{tmp_path}/out/a"


@pytest.mark.s3
def test_options_reach_their_scheme(s3_server: S3Server, s3_bucket: str) -> None:
    wrong = {"s3": {**s3_server.storage_options["s3"], "secret": "wrong"}}
    with pytest.raises(PermissionError):
        open_store(f"{s3_bucket}/x", wrong).put("a", b"")
    assert open_store(f"{s3_bucket}/x", s3_server.storage_options).uri("a") == f"{s3_bucket}/x/a"


@pytest.mark.parametrize(
    ("uri", "says"),
    [("s3://key:secret@bucket/x", "credentials"), ("nosuchscheme://x/y", "nosuchscheme")],
)
def test_bad_uris_are_config_errors(uri: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve(uri, {})
    assert "key:secret" not in str(caught.value)


def test_passing_faults_are_retried(memory: Store) -> None:
    memory.put("a", b"1")
    shaky = faulty(memory, "cat_file", [(SLOW_DOWN, False), (ConnectionResetError(), False)])
    assert shaky.read("a") == b"1"
    assert shaky.fs.calls == 3


def test_lasting_faults_are_not_retried(memory: Store) -> None:
    shaky = faulty(memory, "cat_file", [(_translated(403, errno.EACCES), False)] * 5)
    with pytest.raises(OSError, match="said the server"):
        shaky.read("a")
    assert shaky.fs.calls == 1


def test_retries_end_at_the_deadline(memory: Store) -> None:
    shaky = faulty(memory, "cat_file", [(SLOW_DOWN, False)] * 10_000, deadline_s=0.5)
    with pytest.raises(OSError, match="said the server"):
        shaky.read("a")
    assert 1 < shaky.fs.calls < 10_000


@pytest.mark.parametrize("error", [TimeoutError(), SLOW_DOWN, _translated(500, errno.EREMOTEIO)])
@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_result_is_read_back(memory: Store, error: Exception, landed: bool) -> None:
    shaky = faulty(memory, "pipe_file", [(error, landed)])
    assert shaky.put_if_absent("a", b"mine")
    assert memory.read("a") == b"mine"


def test_an_unknown_result_may_be_a_loss(memory: Store) -> None:
    memory.put("a", b"theirs")
    assert not faulty(memory, "pipe_file", [(TimeoutError(), False)]).put_if_absent("a", b"mine")
    assert memory.read("a") == b"theirs"


def test_a_refusal_of_our_own_earlier_put_is_a_win(memory: Store) -> None:
    shaky = faulty(memory, "pipe_file", [(_translated(412, errno.EINVAL), True)])
    assert shaky.put_if_absent("a", b"mine")


def test_a_refusal_without_a_key_is_raised(memory: Store) -> None:
    shaky = faulty(memory, "pipe_file", [(OSError(errno.EINVAL, "invalid argument"), False)])
    with pytest.raises(OSError, match="invalid argument"):
        shaky.put_if_absent("a", b"mine")


def test_a_store_without_exclusive_create_is_refused(memory: Store) -> None:
    other = FaultyFilesystem(memory.fs, "none", [])
    other.protocol = "ftp"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="exclusive create"):
        replace(memory, fs=other).put_if_absent("a", b"")


@pytest.mark.parametrize(
    ("error", "transient", "exists"),
    [
        (FileExistsError(), False, True),
        (OSError(errno.EINVAL, ""), False, True),
        (_translated(412, errno.EINVAL), False, True),
        (_client_error(412), False, True),
        (_translated(409, errno.EIO), True, False),
        (_translated(429, errno.EIO), True, False),
        (_client_error(503), True, False),
        (OSError(errno.EBUSY, ""), True, False),
        (ConnectTimeoutError(endpoint_url="x"), True, False),
        (TimeoutError(), True, False),
        (BrokenPipeError(), True, False),
        (OSError(errno.ENOSPC, ""), False, False),
        (FileNotFoundError(), False, False),
        (PermissionError(errno.EACCES, ""), False, False),
        (ValueError(), False, False),
    ],
)
def test_errors_are_told_apart(error: Exception, transient: bool, exists: bool) -> None:
    assert (is_transient(error), may_exist(error)) == (transient, exists)


def test_a_failed_local_write_leaves_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(TypeError):
        store.put("a/b", "no bytes")  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
