"""A preparing process pays for its memory once, not once a picture."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from pipeline.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
bytes(bytearray(b"\\1") * (40 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    bytearray(b"\\1") * (40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_large_blocks_are_used_again() -> None:
    assert _page_faults("keep") * 10 < _page_faults("default")
