"""Files of any fsspec store behind one small class, with the one atomic step the index leans on: put-if-absent.

In: a local path or a URI, and fsspec options by scheme. Out: a `Store`, picklable, whose names are relative to
its root. Refused: credentials inside a URI, schemes without a driver, and put-if-absent on a store that is not
known to create a key exclusively.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import ConfigError
from pipeline.redaction import remember_options
from pipeline.speech import guard_process
from pipeline.storage_errors import is_transient, may_exist, retrying
from pipeline.userinfo import carries_userinfo, put_elsewhere

__all__ = ["Store", "Stored", "open_store", "resolve"]

T = TypeVar("T")

RETRY_DEADLINE_S = 45.0
"""All tries of one operation together: below the 60 s after which a silent run may lose its claim."""

_TEMPORARY = ".tmp-"
_EXCLUSIVE = frozenset({"file", "local", "s3", "s3a", "memory"})


@dataclass(frozen=True, slots=True)
class Stored:
    """A file found by a listing: `path` relative to the store's root, size in bytes.

    `modified_s` is when it was written, in seconds since 1970 on the store's own clock; infinite if that is unknown.
    """

    path: str
    bytes: int
    modified_s: float = field(default=math.inf, compare=False)


def resolve(
    path_or_uri: str, storage_options: Mapping[str, Mapping[str, Any]]
) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem and the path in it that `path_or_uri` means; a local path comes back absolute.

    `storage_options` is keyed by scheme: `{"s3": {"endpoint_url": …}}`. Listings are never cached, since other
    processes write to the same folders. Raises ConfigError for credentials in the URI or an unknown scheme.
    """
    if carries_userinfo(path_or_uri):
        raise ConfigError(f"a URI must not carry credentials; {put_elsewhere(path_or_uri)}")
    remember_options(storage_options)
    scheme, separator, _ = path_or_uri.partition("://")
    scheme = scheme.lower() if separator else "file"
    options = {str(key): value for key, value in storage_options.get(scheme, {}).items()}
    if scheme not in ("file", "local"):
        options.setdefault("use_listings_cache", False)
    try:
        fs, path = fsspec.core.url_to_fs(path_or_uri, **options)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot open {path_or_uri}: {error}") from None
    return fs, str(path).rstrip("/") or "/"


def open_store(path: str, storage_options: Mapping[str, Mapping[str, Any]] | None = None) -> Store:
    """The store rooted at `path` (local or URI). Does no I/O; raises ConfigError as `resolve` does."""
    fs, base = resolve(path, storage_options or {})
    return Store(root=path, base=base, fs=fs)


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of a filesystem. Names are relative, with `/`; `root` is how the user wrote the folder.

    Store errors that pass (5xx, throttling, broken connections) are retried until `deadline_s`, then raised.
    """

    root: str
    base: str
    fs: fsspec.AbstractFileSystem = field(repr=False)
    deadline_s: float = RETRY_DEADLINE_S

    def __post_init__(self) -> None:
        remember_options({"store": getattr(self.fs, "storage_options", {})})

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self.root, self.base, self.fs, self.deadline_s)

    @property
    def is_local(self) -> bool:
        """Whether the files lie in this machine's own file tree."""
        return isinstance(self.fs, LocalFileSystem)

    def full(self, rel: str) -> str:
        """`rel` as a path of `fs`."""
        return f"{self.base.rstrip('/')}/{rel}" if rel else self.base

    def uri(self, rel: str) -> str:
        """`rel` with its scheme, as another process or tool would open it."""
        return str(self.fs.unstrip_protocol(self.full(rel)))

    def read(self, rel: str) -> bytes:
        """The bytes of `rel`. Raises FileNotFoundError."""
        return self._retry(lambda: bytes(self.fs.cat_file(self.full(rel))))

    def exists(self, rel: str) -> bool:
        """Whether a file or folder `rel` is there now."""
        return self._retry(lambda: bool(self.fs.exists(self.full(rel))))

    def size(self, rel: str) -> int:
        """Size of the file `rel` in bytes. Raises FileNotFoundError."""
        return self._retry(lambda: int(self.fs.info(self.full(rel))["size"]))

    def list(self, prefix: str = "") -> list[Stored]:
        """Every file in the folder `prefix` and below, by path; empty if there is no such folder."""
        # Some stores list a folder that was emptied as an object of its own, without a name below the prefix.
        return [file for file in self._find(prefix) if _is_ours(file.path)]

    def temporaries(self, prefix: str = "") -> Sequence[Stored]:
        """What unfinished writes have in the folder `prefix` and below, by path: of writes under way, or cut off."""
        return [file for file in self._find(prefix) if _name(file.path).startswith(_TEMPORARY)]

    def delete(self, rel: str) -> None:
        """Remove the file `rel`; nothing happens if it is not there."""
        try:
            self._retry(lambda: self.fs.rm_file(self.full(rel)))
        except FileNotFoundError:
            return

    def delete_empty_folder(self, rel: str) -> None:
        """Remove the folder `rel` if nothing is in it. An object store has no such folders."""
        if self.is_local:
            with suppress(OSError):
                Path(self.full(rel)).rmdir()

    def put(self, rel: str, data: bytes) -> None:
        """Write `rel` whole, over what was there: a reader sees the old bytes or the new, never a part."""
        if self.is_local:
            with self._replacing(rel) as file:
                file.write(data)
        else:
            self._retry(lambda: self.fs.pipe_file(self.full(rel), data))

    def put_if_absent(self, rel: str, data: bytes) -> bool:
        """Create `rel` if nothing is there. True: it holds our bytes; False: it was there before.

        An answer that leaves the result open (timeout, 5xx, a retry inside the client) is settled by reading
        `rel` back, so `data` must be unique to its writer. Raises ConfigError where the store cannot do it.
        """
        if self.is_local:
            return self._link(rel, data)
        schemes = {self.fs.protocol} if isinstance(self.fs.protocol, str) else set(self.fs.protocol)
        if not schemes & _EXCLUSIVE:
            raise ConfigError(f"{self.root}: an index needs a local folder or s3:// (exclusive create)")
        return self._retry(lambda: self._create(rel, data))

    def upload(self, local_file: str, rel: str) -> None:
        """Copy a local file to `rel`, over what was there."""
        if self.is_local:
            with Path(local_file).open("rb") as source, self._replacing(rel) as target:
                shutil.copyfileobj(source, target, length=1 << 20)
        else:
            self._retry(lambda: self.fs.put_file(local_file, self.full(rel)))

    def open_input(self, rel: str) -> BinaryIO:
        """`rel` for reading, seekable. Raises FileNotFoundError."""
        return self._retry(lambda: cast(BinaryIO, self.fs.open(self.full(rel), "rb")))

    @contextmanager
    def open_output(self, rel: str) -> Iterator[BinaryIO]:
        """`rel` for writing; it appears when the block ends, and not at all if the block raises."""
        if self.is_local:
            with self._replacing(rel) as local:
                yield local
            return
        remote = self.fs.open(self.full(rel), "wb")
        try:
            yield cast(BinaryIO, remote)
        except BaseException:
            remote.discard()
            remote.closed = True  # a plain close, by the garbage collector too, would publish what there is
            raise
        remote.close()

    def _find(self, prefix: str) -> Sequence[Stored]:
        found = self._retry(lambda: self.fs.find(self.full(prefix), detail=True))
        start = len(self.base.rstrip("/")) + 1
        files = ((path[start:], info) for path, info in found.items() if info["type"] == "file")
        return sorted((Stored(path, int(info["size"]), _modified_s(info)) for path, info in files), key=_path)

    def _retry(self, call: Callable[[], T]) -> T:
        return retrying(self.deadline_s)(call)

    def _create(self, rel: str, data: bytes) -> bool:
        try:
            self.fs.pipe_file(self.full(rel), data, mode="create")
        except Exception as error:
            if not (may_exist(error) or is_transient(error)):
                raise
            try:
                return self.read(rel) == data
            except FileNotFoundError:
                raise error from None
        return True

    def _link(self, rel: str, data: bytes) -> bool:
        target = Path(self.full(rel))
        temporary = _write_beside(target, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(target.parent)
        return True

    @contextmanager
    def _replacing(self, rel: str) -> Iterator[BinaryIO]:
        target = Path(self.full(rel))
        temporary = _temporary_beside(target)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(target.parent)


def _arrived(root: str, base: str, fs: fsspec.AbstractFileSystem, deadline_s: float) -> Store:
    """A store in a worker that unpickled it: what is logged there, by drivers too, is redacted there."""
    guard_process()
    return Store(root, base, fs, deadline_s)


def _is_ours(rel: str) -> bool:
    name = _name(rel)
    return bool(name) and not name.startswith(_TEMPORARY)


def _name(rel: str) -> str:
    return rel.rpartition("/")[2]


def _path(file: Stored) -> str:
    return file.path


def _modified_s(info: Mapping[str, Any]) -> float:
    # What local files, S3 and memory call it.
    at = next((info[key] for key in ("mtime", "LastModified", "created") if info.get(key) is not None), math.inf)
    return at.timestamp() if isinstance(at, datetime) else float(at)


def _temporary_beside(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"


def _write_beside(target: Path, data: bytes) -> Path:
    temporary = _temporary_beside(target)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    # A new name is durable only once its folder is: without this a power cut can undo a published commit.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
