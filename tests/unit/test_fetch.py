"""Fetching under a policy: what is allowed, what is refused, and how patiently."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.blobs import Blob, Stat
from pipeline.config import FetchConfig
from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.fetch import THREADS, Fetcher, FetchPolicy
from pipeline.local_files import LocalFile
from pipeline.types import LoadedItem, LoadedMedia, Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.manifests import HF_IMAGE, write_parquet

AT_ONCE_S = 10
"""What waits for a pipe or a device waits for ever, or until `fetch.timeout_s`; a busy machine may need a second."""


def fetcher(folder: Path | str | None = None, **config: Any) -> Fetcher:
    return Fetcher(FetchPolicy.of(FetchConfig(**config), None if folder is None else str(folder)))


def code_of(call: Callable[[], object]) -> RejectCode:
    with pytest.raises(RejectError) as error:
        call()
    return error.value.code


def fetch_code(fetch: Fetcher, path: Path | str) -> RejectCode:
    return code_of(lambda: fetch.fetch(str(path)))


def item(id_: str, *uris: str, manifest: str = "", row: int = 0, inline: tuple[str, ...] = ()) -> WorkItem:
    media = [Media(MediaKind.IMAGE, (MediaRef(uri, "image", i),)) for i, uri in enumerate(uris)]
    media += [Media(MediaKind.IMAGE, (MediaRef(None, column, 0),)) for column in inline]
    return WorkItem(id_, ("t",), tuple(media), "i", 1.0, 8, "f", manifest, row, 0)


def test_local_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").write_bytes(b"x" * 100_000)
    (tmp_path / "link.png").symlink_to(tmp_path / "sub" / "a.png")
    with fetcher(tmp_path) as fetch:
        for name in ("sub/a.png", "link.png", "sub/../link.png"):
            assert fetch.fetch(str(tmp_path / name)) == b"x" * 100_000


def test_roots_may_be_links_and_replace_the_default(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with fetcher(tmp_path / "m", local_roots=(str(tmp_path / "link"),)) as fetch:
        assert fetch.fetch(str(tmp_path / "link" / "a")) == fetch.fetch(str(tmp_path / "real" / "a")) == b"x"
        assert code_of(lambda: fetch.fetch(str(tmp_path / "m" / "a"))) is RejectCode.URI_NOT_ALLOWED


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A root with everything in it that must not be read, beside a secret."""
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "root2").mkdir()
    for path in (tmp_path / "secret", tmp_path / "root2" / "secret"):
        path.write_bytes(b"secret")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    (root / "zero").symlink_to("/dev/zero")
    (root / "environ").symlink_to("/proc/self/environ")
    os.mkfifo(root / "fifo")
    return root


TRAVERSALS = [
    "{root}/../secret", "{root}/folder/../../secret", "{root}2/secret", "{root}/out", "{root}/up/secret",
    "{root}/zero", "{root}/environ", "{root}/fifo", "{root}/folder", "{root}", "{root}/", "{root}/loop",
    "/dev/zero", "/dev/stdin", "/dev/random", "/proc/self/environ", "/proc/self/fd/0", "/etc/passwd", "/",
    "//etc/passwd", "relative.png", "../secret", "", "{root}/a\x00b", "{root}/a\nb", "{root}/\ud800",
    "file:///etc/passwd", "file://host/etc/passwd", "FILE:///etc/passwd", "file:etc/passwd",
    "http://169.254.169.254/latest/meta-data", "https://example.com/a.png", "ftp://example.com/a",
    "data:image/png;base64,AAAA", "gs://bucket/a", "local:///etc/passwd", "memory://a",
    "s3://key:secret@bucket/a", "s3://user@bucket/a",
    "simplecache::s3://bucket/a", "zip://a::file:///etc/passwd", "dir::file:///etc", "reference://x",
]  # fmt: skip


@pytest.mark.parametrize("uri", TRAVERSALS, ids=[str(i) for i in range(len(TRAVERSALS))])
def test_what_is_not_allowed_is_refused_at_once(hostile: Path, uri: str) -> None:
    started = time.monotonic()
    with fetcher(hostile) as fetch:
        assert code_of(lambda: fetch.fetch(uri.format(root=hostile))) is RejectCode.URI_NOT_ALLOWED
    assert time.monotonic() - started < AT_ONCE_S


def test_the_kernels_files_are_no_media_under_any_root(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, fetcher(local_roots=("/",)) as fetch:
        listening.bind(str(tmp_path / "socket"))
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "full").symlink_to("/dev/full")
        named = (
            "/proc/self/environ",
            "/proc/self/mem",
            "/proc/kmsg",
            "/sys/kernel/uevent_seqnum",
            "/dev/zero",
            "/dev/tty",
        )
        for path in (*named, tmp_path / "socket", tmp_path / "fifo", tmp_path / "full", "/dev/stdin", tmp_path):
            started = time.monotonic()
            assert fetch_code(fetch, path) is RejectCode.URI_NOT_ALLOWED, path
            assert time.monotonic() - started < AT_ONCE_S


def test_a_folder_that_becomes_a_link_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the judgement of a path and its opening the folder is replaced by a link out of the root."""
    root = tmp_path / "root"
    for folder in (root / "folder", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(folder.name.encode())
    judge = FetchPolicy.local_file

    def swap(policy: FetchPolicy, uri: str) -> LocalFile:
        judged = judge(policy, uri)
        (root / "folder").rename(root / "before")
        (root / "folder").symlink_to(tmp_path / "elsewhere")
        return judged

    with fetcher(root) as fetch:
        assert fetch.fetch(str(root / "folder" / "a")) == b"folder"
        monkeypatch.setattr(FetchPolicy, "local_file", swap)
        assert fetch_code(fetch, root / "folder" / "a") in (RejectCode.NOT_FOUND, RejectCode.URI_NOT_ALLOWED)


def test_without_roots_nothing_local_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    for fetch in (fetcher("s3://bucket/m"), fetcher(None), fetcher(tmp_path, local_roots=())):
        assert fetch_code(fetch, tmp_path / "a") is RejectCode.URI_NOT_ALLOWED


def test_local_files_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "large").write_bytes(b"x" * 11)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with fetcher(tmp_path, max_bytes=10) as fetch:
        codes = {
            name: fetch_code(fetch, tmp_path / name)
            for name in ("empty", "large", "sparse", "none", "large/below", "n" * 5000)
        }
    assert list(codes.values()) == [
        RejectCode.EMPTY_MEDIA, RejectCode.MEDIA_TOO_LARGE, RejectCode.MEDIA_TOO_LARGE,
        RejectCode.NOT_FOUND, RejectCode.NOT_FOUND, RejectCode.NOT_FOUND,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "said"), [("http", "fetch.hosts"), ("https", "fetch.hosts"), ("nope", "nope"), ("local", "past every")]
)
def test_schemes_that_cannot_be_read_are_config_errors(scheme: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fetcher(schemes=(scheme,))


def test_items_are_loaded_with_all_their_media(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    manifest = write_parquet(tmp_path / "m.parquet", {"id": ["1"], "hf": pa.array([{"bytes": b"hf"}], HF_IMAGE)})
    frames = Media(MediaKind.FRAMES, tuple(MediaRef(str(tmp_path / name), "frames", 0) for name in "ab"))
    work = item("1", str(tmp_path / "c"), manifest=str(manifest), inline=("hf",))
    work = WorkItem("1", work.texts, (frames, *work.media), "i", 1.0, 8, "f", str(manifest), 0, 0)
    with fetcher(tmp_path) as fetch:
        assert fetch.load(work) == LoadedItem(
            "1", ("t",),
            (
                LoadedMedia(MediaKind.FRAMES, (b"a", b"b")),
                LoadedMedia(MediaKind.IMAGE, (b"c",)),
                LoadedMedia(MediaKind.IMAGE, (b"hf",)),
            ),
            "i", 1.0, 8,
        )  # fmt: skip


def test_inline_bytes_obey_the_size_rules(tmp_path: Path) -> None:
    manifest = write_parquet(tmp_path / "m.parquet", {"id": [1, 2], "image": [b"", b"x" * 11]})
    with fetcher(tmp_path, max_bytes=10) as fetch:
        works = [item("1", manifest=str(manifest), row=row, inline=("image",)) for row in range(2)]
        codes = [code_of(partial(fetch.load, work)) for work in works]
    assert codes == [RejectCode.EMPTY_MEDIA, RejectCode.MEDIA_TOO_LARGE]


def test_one_bad_item_touches_no_other_and_order_stays(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / str(i)).write_bytes(b"%d" % i)
    items = [item(str(i), *([] if i % 3 == 0 else [str(tmp_path / str(i))])) for i in range(250)]
    with fetcher(tmp_path) as fetch:
        got = list(fetch.load_many(items))
    assert [work.id for work, _ in got] == [str(i) for i in range(250)]
    for i, (_, loaded) in enumerate(got):
        if i >= 200 and i % 3:
            assert isinstance(loaded, RejectError)
            assert loaded.code is RejectCode.NOT_FOUND
        else:
            assert isinstance(loaded, LoadedItem)
            assert [blob for media in loaded.media for blob in media.blobs] == ([] if i % 3 == 0 else [b"%d" % i])


def test_reading_ahead_is_concurrent_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, running, peak, begun = 1 << 20, 0, 0, 0
    lock = threading.Lock()

    def slow(self: Fetcher, uri: str) -> Blob:
        nonlocal running, peak, begun
        with lock:
            running, begun = running + 1, begun + 1
            peak = max(peak, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return Blob(b"x" * size, Stat(size, ()))

    monkeypatch.setattr(Fetcher, "read", slow)
    policy = FetchPolicy.of(FetchConfig(), str(tmp_path))
    with Fetcher(policy, threads=4, ahead_bytes=6 * size) as fetch:
        taken = 0
        for _ in fetch.load_many(item(str(i), str(i)) for i in range(40)):
            taken += 1
            time.sleep(0.03)
            assert begun - taken <= 6, "no more than ahead_bytes are held"
    assert taken == 40
    assert peak > 1


MIB = 1 << 20


def fetching(monkeypatch: pytest.MonkeyPatch, read: Callable[[str], bytes], ahead_bytes: int) -> Fetcher:
    """A fetcher whose files are what `read` makes of their URIs."""
    monkeypatch.setattr(Fetcher, "read", lambda _, uri: Blob(read(uri), Stat(0, ())))
    return Fetcher(FetchPolicy.of(FetchConfig(), None), ahead_bytes=ahead_bytes)


def test_large_files_are_not_begun_by_the_dozen(monkeypatch: pytest.MonkeyPatch) -> None:
    large, begun = bytes(20 * MIB), []

    def read(uri: str) -> bytes:
        begun.append(uri)
        time.sleep(0.02)
        return large

    with fetching(monkeypatch, read, 40 * MIB) as fetch:
        for _ in range(2):
            begun.clear()
            for taken, _ in enumerate(fetch.load_many(item(str(i), str(i)) for i in range(20))):
                time.sleep(0.005)
                assert len(begun) - taken <= 3, "two that fit, and the one handed out"
            assert len(begun) == 20


def test_sizes_are_known_when_read_not_when_used(monkeypatch: pytest.MonkeyPatch) -> None:
    large, begun = bytes(20 * MIB), []

    def read(uri: str) -> bytes:
        begun.append(uri)
        if uri == "0":
            until = time.monotonic() + 60
            while fetch._sizes.expected_bytes() is None:  # the large one's, which nobody has asked for yet
                assert time.monotonic() < until
                time.sleep(0.01)
            return b"x"
        return large

    with fetching(monkeypatch, read, 40 * MIB) as fetch:
        loading = fetch.load_many(item(str(i), str(i)) for i in range(20))
        assert [next(loading)[0].id for _ in range(2)] == ["0", "1"]
        while len(begun) < 3:
            time.sleep(0.01)
        time.sleep(0.05)
        assert sorted(begun) == ["0", "1", "2"]  # the first two by two threads, at once


def test_the_sizes_of_earlier_calls_count(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(8)

    def read(uri: str) -> bytes:
        if uri.startswith("second"):
            together.wait(60)
        return b"x"

    with fetching(monkeypatch, read, 2 * MIB) as fetch:
        assert len(list(fetch.load_many([item("1", "first")]))) == 1
        got = [loaded for _, loaded in fetch.load_many(item(str(i), f"second{i}") for i in range(8))]
    assert all(isinstance(loaded, LoadedItem) for loaded in got)


def test_files_of_one_item_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def read(uri: str) -> bytes:
        begun.append(uri)
        return bytes(MIB)

    with fetching(monkeypatch, read, 10 * MIB) as fetch:
        assert len(list(fetch.load_many([item("0", "a")]))) == 1
        begun.clear()
        loading = fetch.load_many(item(str(i), *(f"{i}.{n}" for n in range(6))) for i in range(5))
        next(loading)
        time.sleep(0.05)
        assert len(begun) == 6, "two items of 6 MiB do not fit in 10"


def test_an_item_larger_than_the_window_is_loaded_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    with Fetcher(FetchPolicy.of(FetchConfig(), str(tmp_path)), threads=1, ahead_bytes=1) as fetch:
        got = list(fetch.load_many([item(str(i), *[str(tmp_path / "a")] * 5) for i in range(3)]))
    assert all(isinstance(loaded, LoadedItem) for _, loaded in got)


def test_leaving_early_drops_what_was_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    left = threading.Event()

    def read(uri: str) -> bytes:
        begun.append(uri)
        assert not uri.isdigit() or uri == "0" or left.wait(30)
        return b"x"

    with fetching(monkeypatch, read, MIB) as fetch:
        fetch.load(item("before", "before"))
        loading = fetch.load_many(item(str(i), str(i)) for i in range(1000))
        assert next(loading)[0].id == "0"
        assert isinstance(loading, Generator)
        loading.close()
        left.set()
        fetch.load(item("after", "after"))
    assert begun[0] == "before"
    assert {"0", "after"} <= set(begun)
    assert len(begun) <= 3 + THREADS, "those that the threads were at, and none that waited for a thread"


def test_a_fetcher_is_picklable_after_use(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with fetcher(tmp_path) as fetch:
        fetch.fetch(str(tmp_path / "a"))
        with pickle.loads(pickle.dumps(fetch)) as again:
            assert again.load(item("1", str(tmp_path / "a"))).media[0].blobs == (b"x",)


def test_other_stores_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/fetch-test/a", b"x" * 20)
    memory.pipe_file("/fetch-test/empty", b"")
    with fetcher(schemes=("memory",), max_bytes=20) as fetch:
        assert fetch.fetch("memory://fetch-test/a") == b"x" * 20
        assert fetch.stat("memory://fetch-test/a").size_bytes == 20
        assert code_of(lambda: fetch.fetch("memory://fetch-test/none")) is RejectCode.NOT_FOUND
        assert code_of(lambda: fetch.fetch("memory://fetch-test/empty")) is RejectCode.EMPTY_MEDIA
    with fetcher(schemes=("memory",), max_bytes=19) as fetch:
        assert code_of(lambda: fetch.fetch("memory://fetch-test/a")) is RejectCode.MEDIA_TOO_LARGE
    memory.rm("/fetch-test", recursive=True)
