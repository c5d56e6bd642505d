"""Keeping memory between pictures, in processes that do nothing but prepare.

By default glibc gives every block beyond 32 MiB back to the system at once, and the next picture pays for fresh pages,
one fault a 4 KiB: for a photograph of 12 megapixels that took longer than decoding it. Nothing comes in and nothing
is refused; where the C library is another one, nothing happens.
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

KEPT_BYTES = 256 << 20
"""Free memory at the heap's end that stays: the copies of a 40-megapixel photograph; more goes back to the system."""

MAPPED_BYTES = 1 << 30  # blocks from which on the system is asked all the same


def keep_freed_memory() -> bool:
    """Let this process keep up to `KEPT_BYTES` of what it frees; whether its C library can."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Both, since setting either one ends glibc's own adjusting of the pair.
    return bool(mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
