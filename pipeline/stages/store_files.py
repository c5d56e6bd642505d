"""A store as Ray Data's own read tasks open it: where they run, errors and logs are redacted as in our stages.

In: a `Store`. Out: what `ray.data.read_parquet` takes for a filesystem. Nothing is refused. Ray writes what its tasks
raise to its log files and shows it on its dashboard, and knows none of the store's secrets.
"""

from __future__ import annotations

from typing import Any, BinaryIO

from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from pyarrow.lib import PythonFile

from pipeline.redaction import redacted_errors
from pipeline.storage import Store

__all__ = ["filesystem_of"]


def filesystem_of(store: Store) -> Any:  # noqa: ANN401 - pyarrow's or fsspec's, which have no types
    """The filesystem that `store` lies in, for Ray's tasks to read from."""
    # Exactly it: pyarrow reads plain files without Python, and there is no secret about them.
    return store.fs if type(store.fs) is LocalFileSystem else PyFileSystem(_StoreFiles(store))


class _StoreFiles(FSSpecHandler):  # type: ignore[misc]
    """Travels with its `Store`, which makes the options' secrets known where it arrives."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.fs)
        self._store = store

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._store,)

    get_file_info = redacted_errors(FSSpecHandler.get_file_info)
    get_file_info_selector = redacted_errors(FSSpecHandler.get_file_info_selector)

    @redacted_errors
    def open_input_file(self, path: str) -> PythonFile:
        """See pyarrow. Raises FileNotFoundError."""
        if not self.fs.isfile(path):
            raise FileNotFoundError(path)
        return PythonFile(_Redacting(self.fs.open(path, mode="rb")), mode="r")

    open_input_stream = open_input_file


class _Redacting:
    """A file whose errors are redacted: they come from reading as much as from opening."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the file has
        found = getattr(self._file, name)
        return redacted_errors(found) if callable(found) else found
