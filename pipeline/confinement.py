"""Taking from a process what decoding never needs: the network, files to write, credentials, endless memory.

In: the calling process, and how much memory it may still take. Out: what was taken. Linux only, where a limit is the
kernel's; elsewhere the audit hook alone holds. Nothing here can be undone, so it is for processes made to decode.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline.secret_names import is_kept_from_decoders

__all__ = [
    "AUDITED",
    "die_with_parent",
    "forget_credentials",
    "leave_network",
    "limit_resources",
    "refuse_reaching_out",
]

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000  # of linux/sched.h
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # of linux/prctl.h

_SOCKETS = ("socket.",)
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

AUDITED = "a decoding process may not reach out"


def forget_credentials() -> None:
    """Take every variable named like a credential out of the environment, and out of the memory that held it."""
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name in [name for name in os.environ if is_kept_from_decoders(name)]:
        # What the kernel put on the stack is what /proc shows, whatever is unset later.
        place = libc.getenv(name.encode())
        value = os.environb[name.encode()]
        if place:
            ctypes.memset(place, 0, len(value))
        if len(value) > 1:  # Python has one object for each single byte, and it is everybody's
            ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))
        del os.environ[name]


def leave_network() -> bool:
    """Move this process, which must have one thread, to a network of its own without any device. Whether that worked.

    First as one who may; then in a user namespace, which most systems permit to anybody.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return any(libc.unshare(flags) == 0 for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET))


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that forked this process ends; end now if `parent` is gone already."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # No program with more rights than this one can be started from here any more.
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit_resources(memory_bytes: int) -> None:
    """`memory_bytes` of address space more than now, no byte written to any file, no core dump."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, instead of killing
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        held_bytes = int(statm.read_text().split()[0]) * resource.getpagesize()
        limit = held_bytes + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def refuse_reaching_out() -> None:
    """Have Python refuse sockets, other programs, and files opened for writing, with PermissionError."""
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_SOCKETS) or event in _PROGRAMS:
        raise PermissionError(f"{AUDITED}: {event}")
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        raise PermissionError(f"{AUDITED}: open for writing")
