"""How decoding children are started: forked from a server of their own, which has decoders loaded and little else.

In: what `multiprocessing` wants started. Out: its processes. The standard library's fork server does the work; what is
different here: each pool has its own server, whose preload is ours whatever else the program does with
`multiprocessing`; it finds this very copy of lakevec; and no child imports the caller's main module, which may be a
script without a guard, or a Ray worker.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import popen_forkserver, reduction, spawn, util
from multiprocessing.context import ForkServerContext, ForkServerProcess, set_spawning_popen
from multiprocessing.forkserver import ForkServer, read_signed
from pathlib import Path
from typing import Any

__all__ = ["LaunchContext"]

_SERVER_MODULE = "pipeline.decode_server"

_environment = threading.Lock()


class _Server(ForkServer):
    """A fork server with decoders in it."""

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload([_SERVER_MODULE])

    def ensure_running(self) -> None:
        with _findable():
            super().ensure_running()

    def stop(self) -> None:
        """End the server; its children are killed with it."""
        self._stop()  # type: ignore[attr-defined]  # typeshed has only what is documented


@contextmanager
def _findable() -> Iterator[None]:
    """Let a Python that is started now find this lakevec first: the server is not told of `sys.path`."""
    root = str(Path(__file__).parents[1])
    with _environment:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *([before] if before else [])])
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Popen(popen_forkserver.Popen):
    """The standard one, but for whose server it asks and what it tells of the main module."""

    def _launch(self, process_obj: _Process) -> None:
        facts = spawn.get_preparation_data(process_obj.name)
        for main in ("init_main_from_name", "init_main_from_path"):
            facts.pop(main, None)
        message = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(facts, message)
            reduction.dump(process_obj, message)
        finally:
            set_spawning_popen(None)
        self.sentinel, write_end = process_obj.server.connect_to_new_process(self._fds)  # type: ignore[attr-defined]
        # As long as the child has a parent, its end of this pipe stays open.
        kept = os.dup(write_end)
        self.finalizer = util.Finalize(self, _close, (kept, self.sentinel))
        with open(write_end, "wb", closefd=True) as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(message.getbuffer())
        self.pid = read_signed(self.sentinel)


class _Process(ForkServerProcess):
    """A child of `server`; the server stays behind when the child is described to it."""

    def __init__(self, server: _Server, **settings: Any) -> None:  # noqa: ANN401 - multiprocessing's own
        super().__init__(**settings)
        self.server = server

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "server"}

    @staticmethod
    def _Popen(process_obj: _Process) -> _Popen:  # type: ignore[override]
        return _Popen(process_obj)


class LaunchContext(ForkServerContext):
    """A `multiprocessing` context with a server of its own. `close` it: its children end with it."""

    def __init__(self) -> None:
        super().__init__()
        self._server = _Server()

    def Process(self, **settings: Any) -> _Process:  # type: ignore[override]  # noqa: ANN401 - multiprocessing's
        """A process, not started."""
        return _Process(self._server, **settings)

    def close(self) -> None:
        """End the server, if it was started."""
        self._server.stop()
