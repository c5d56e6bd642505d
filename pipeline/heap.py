"""Keeping memory between pictures and between forwards, in processes that do nothing but that.

By default glibc gives every block beyond 32 MiB back to the system at once, and the next picture or tensor pays for
fresh pages, one fault a 4 KiB: for a photograph of 12 megapixels that took longer than decoding it. Nothing comes in
and nothing is refused; where the C library is another one, nothing happens.
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h

KEPT_BYTES = 256 << 20
"""Free memory at the heap's end that stays: the copies of a 40-megapixel photograph, or more than the tensors of one
layer on a CPU; more goes back to the system."""

MAPPED_BYTES = (1 << 30, 32 << 20)
"""Blocks from which on the system is asked all the same; older versions of glibc take no more than the second."""


def keep_freed_memory() -> bool:
    """Let this process keep up to `KEPT_BYTES` of what it frees; whether its C library can."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Both, since setting either one ends glibc's own adjusting of the pair.
    return any(mallopt(M_MMAP_THRESHOLD, size) for size in MAPPED_BYTES) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
