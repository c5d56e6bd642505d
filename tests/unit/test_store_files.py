"""What Ray's own tasks read a store with: the same bytes, and no secret in what goes wrong there."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.redaction import HIDDEN
from pipeline.stages.store_files import filesystem_of
from pipeline.storage import open_store
from tests.fixtures.canaries import DRIVER_TOKEN, SECRET
from tests.fixtures.jobs import ROOT


class _Failing:
    """A file that tells its store's token once it is read."""

    def __init__(self, file: BinaryIO, token: str) -> None:
        self._file, self._token = file, token

    def read(self, *_: int) -> bytes:
        raise RuntimeError(f"GET: token={self._token}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class TellTale(MemoryFileSystem):
    """Memory that fails when files called `bad` are opened and those called `torn` are read."""

    protocol = "telltale"

    def __init__(self, token: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.token = token

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if path.endswith("bad") and mode == "rb":
            raise RuntimeError(f"GET {path}: token={self.token}")
        file = super()._open(path, mode, **options)
        return _Failing(file, self.token) if path.endswith("torn") and mode == "rb" else file


fsspec.register_implementation("telltale", TellTale, clobber=True)
TABLE = pa.table({"id": ["a", "b"]})


def test_files_are_read_and_their_errors_redacted() -> None:
    store = open_store("telltale://lake", {"telltale": {"token": DRIVER_TOKEN.value}})
    files = filesystem_of(store)
    for name in ("good", "bad", "torn"):
        with store.open_output(name) as out:
            pq.write_table(TABLE, out)
    assert pq.read_table(store.full("good"), filesystem=files).equals(TABLE)
    for name in ("bad", "torn"):
        with pytest.raises(RuntimeError, match=HIDDEN) as caught:
            pq.read_table(store.full(name), filesystem=files)
        assert DRIVER_TOKEN.value not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        pq.read_table(store.full("none"), filesystem=files)


def test_plain_local_files_stay_pyarrow_s_own(tmp_path: Path) -> None:
    assert type(filesystem_of(open_store(str(tmp_path)))) is LocalFileSystem


ARRIVES = """
import logging, pickle, sys
pickle.loads(sys.stdin.buffer.read())
logging.getLogger("driver").error("refused: %s", sys.argv[1])
raise RuntimeError("no luck with " + sys.argv[1])
"""


@pytest.mark.parametrize("what", ["store", "files"])
def test_what_a_worker_logs_is_redacted_once_a_store_arrives(what: str) -> None:
    store = open_store("s3://lake", {"s3": {"key": "someone", "secret": SECRET.value}})
    sent = pickle.dumps(store if what == "store" else filesystem_of(store))
    done = subprocess.run(
        [sys.executable, "-c", ARRIVES, SECRET.value], input=sent, cwd=ROOT, capture_output=True, check=False
    )
    assert done.stderr.decode().count(HIDDEN) == 2, done.stderr
    assert SECRET.value.encode() not in done.stderr
