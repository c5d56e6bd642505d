"""Which process this is, and whether another one on this machine still lives.

In: the identity a claim recorded. Out: whether that process is certainly gone. A process that cannot be seen
from here (other host, boot or pid namespace, no /proc) is never called gone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["certainly_gone", "identity"]

_PROC = Path("/proc")
_STATE, _START_TIME = 0, 19
"""Places in /proc/<pid>/stat after the command's closing bracket: fields 3 and 22 of proc(5)."""


def identity() -> dict[str, Any]:
    """This process, told apart from every other of any host, boot and container."""
    pid = os.getpid()
    return {**_machine(), "pid": pid, "started_ticks": _started_ticks(pid)}


def certainly_gone(process: Mapping[str, Any]) -> bool:
    """Whether `process` (an `identity`) ran on this machine since its last boot and is dead now."""
    machine = _machine()
    if not all(machine.values()) or any(process.get(key) != value for key, value in machine.items()):
        return False
    pid, started = process.get("pid"), process.get("started_ticks")
    if not isinstance(pid, int) or not isinstance(started, int) or _is_hidden(pid):
        return False
    # Pids are used again: the same number with another start time is another process.
    return _started_ticks(pid) != started


def _is_hidden(pid: int) -> bool:
    """Whether `pid` lives but /proc does not show it, as another user's process under hidepid."""
    if (_PROC / str(pid)).exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _machine() -> dict[str, str]:
    # Containers of one host may share its name and boot but not its pids.
    return {
        "host": socket.gethostname(),
        "boot_id": _read(_PROC / "sys/kernel/random/boot_id"),
        "pid_namespace": _link(_PROC / "self/ns/pid"),
    }


def _started_ticks(pid: int) -> int | None:
    """Start of process `pid` in clock ticks since boot; None if it is dead, a zombie included."""
    stat = _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    if not stat or stat[_STATE] in "ZX":
        return None
    return int(stat[_START_TIME])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
