"""The process that decodes: what it may, what it holds, and the one thing it does.

In: `MediaJob`s, one after the other. Out: `ReadMedia`, or a `Refusal` where a job is rejected; whatever else comes out
of decoding is named in one too, so that only a killed process answers nothing. It has no torch, no tokenizer, no
credentials and no network, writes no file, takes `decode.memory_mb` at most, and dies with whoever asked for it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Any, cast

import numpy as np
from pebble.common import CONSTS

from pipeline.config import MIB, DecodeConfig, InputsConfig
from pipeline.confinement import die_with_parent, limit_resources, refuse_reaching_out
from pipeline.decode_arena import Packed, Shared
from pipeline.errors import RejectCode, RejectError, scrub
from pipeline.heap import keep_freed_memory
from pipeline.media_job import MediaJob, ReadMedia

__all__ = ["ChildFacts", "Equip", "Read", "Refusal", "child_facts", "equip_drafter", "read", "start"]

Read = Callable[[MediaJob], ReadMedia]
"""How a job is read; may raise RejectError."""

Equip = Callable[[], Read]
"""Makes a `Read` in the child that will call it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reject on its way out of the child: exceptions lose their parts when they are pickled."""

    code: RejectCode
    detail: str


@dataclass(frozen=True, slots=True)
class ChildFacts:
    """What a child is, and what it took so far: the most resident memory, and CPU time.

    `has_no_network`: whether the kernel keeps it off, rather than a hook.
    """

    has_no_network: bool
    pid: int
    peak_kib: int
    cpu_s: float


LOCK_S = 2.0
"""What a child waits for its turn to talk, then ends. A predecessor that was killed in the middle of a message keeps
the turn for ever, and the sooner the next one ends of that, the sooner the pool is known to be broken."""

_tools: list[Equip | Read] = []
_shared: list[Shared] = []


def equip_drafter(inputs: InputsConfig, limits: DecodeConfig) -> Read:
    """How media are read in earnest. Raises ConfigError."""
    from pipeline.decode.image import settle_limits
    from pipeline.drafting import Drafter

    settle_limits(limits)
    return Drafter(inputs, limits).read


def start(equip: Equip, memory_mb: int, shared: Shared | None) -> None:
    """Give up what decoding does not need. The pool calls it once, first, in every child.

    `shared`: where answers go, None if through the pipe.
    """
    # The pool asks a hung child to end by SIGTERM, and what hangs in native code runs no handler of Python's.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _let_server_see_the_end()
    die_with_parent(_server_pid())
    CONSTS.channel_lock_timeout = LOCK_S
    keep_freed_memory()
    _say_nothing()
    refuse_reaching_out()
    _give_blas_its_memory()
    limit_resources(memory_mb * MIB)
    # Not called here: what fails here breaks the pool without telling why.
    _tools[:] = [equip]
    _shared[:] = [] if shared is None else [shared]


def read(job: MediaJob, slot: int | None = None) -> ReadMedia | Refusal | Packed:
    """What became of `job`; its pixels in `slot` of the shared memory, if it has one and they fit."""
    try:
        made = _reader()(job)
        return made if slot is None else _shared[0].pack(made, slot)
    except RejectError as error:
        return Refusal(error.code, error.detail)
    except MemoryError:
        return Refusal(RejectCode.DECODE_MEMORY, "the memory that decode.memory_mb allows did not suffice")
    except Exception as error:  # noqa: BLE001 - one bad item never touches another, not even through our own defects
        return Refusal(RejectCode.PREPARE_FAILED, scrub(f"{type(error).__name__}: {error}"))


def child_facts() -> ChildFacts:
    """What this child is. Raises ConfigError if it cannot be equipped."""
    import resource

    _reader()
    used = resource.getrusage(resource.RUSAGE_SELF)
    has_no_network: bool = _server("HAS_NO_NETWORK", default=False)
    return ChildFacts(has_no_network, os.getpid(), used.ru_maxrss, used.ru_utime + used.ru_stime)


def _reader() -> Read:
    if len(_tools) == 1:
        equip: Any = _tools[0]
        _tools.append(equip())
    reader: Read = cast(Read, _tools[1])
    return reader


def _server(name: str, *, default: Any) -> Any:  # noqa: ANN401 - a module's attributes have no common type
    # Imported by the server, or not at all: importing it here would be to become one.
    return getattr(sys.modules.get("pipeline.decode_server"), name, default)


def _server_pid() -> int:
    pid: int = _server("SERVER_PID", default=os.getppid())
    return pid


def _let_server_see_the_end() -> None:
    """Close this child's copy of the pipe by which the server sees that nobody needs it any more.

    Otherwise one hung child keeps the server alive, and so itself, after their owner was killed.
    """
    mine: Any = forkserver._forkserver
    if mine._forkserver_alive_fd is not None:
        os.close(mine._forkserver_alive_fd)
        mine._forkserver_alive_fd = None


def _give_blas_its_memory() -> None:
    """Have OpenBLAS take its buffers while there is memory: where there is none, it waits for itself for ever."""
    large_enough = np.ones((256, 256), np.float32)  # smaller ones are multiplied without a buffer
    large_enough @ large_enough


def _say_nothing() -> None:
    """Native decoders write to standard error what they think of a file; a job's log is not theirs."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
