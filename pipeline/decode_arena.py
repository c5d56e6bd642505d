"""Memory that a decoding child and its owner share, so that pixels need not pass through a pipe.

In: an answer of the child's, and the slot it may be put into. Out: a `Packed` in its place, and the answer again from
that. Memory without a name in any file system: it goes with the last process that has it. Refused: nothing; an answer
that does not fit is left as it is, and travels as any other.
"""

from __future__ import annotations

import mmap
import os
import pickle
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, TypeVar

__all__ = ["SLOT_BYTES", "Arena", "Packed", "Shared", "arena_of"]

Answer = TypeVar("Answer")

SLOT_BYTES = 16 << 20
"""Three pictures of the most pixels that a model is shown, or a clip of some seconds. A longer clip's way through the
pipe is short beside its decoding. Only what was written to takes memory."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An answer whose arrays lie in shared memory: its pickle without them, and where they end in the slot."""

    pickled: bytes
    ends: tuple[int, ...]


class Shared:
    """The child's end: the whole memory, mapped when it is unpickled, which only a child's start can do."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def pack(self, answer: Answer, slot: int) -> Answer | Packed:
        """`answer`, its arrays in the slot if they fit there. Raises MemoryError."""
        buffers: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
        views = [buffer.raw() for buffer in buffers]
        if not views or sum(map(len, views)) > SLOT_BYTES:
            return answer
        start = at = slot * SLOT_BYTES
        ends = []
        for view in views:
            self._memory[at : at + len(view)] = view
            at += len(view)
            ends.append(at - start)
        return Packed(pickled, tuple(ends))


class Arena:
    """The owner's end: `slots` slots, each of which one answer may use at a time. It goes when nothing refers to it."""

    def __init__(self, slots: int) -> None:
        self._file = os.memfd_create("lakevec-pixels", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, self._file)
        self._size = slots * SLOT_BYTES
        os.ftruncate(self._file, self._size)
        self._memory = mmap.mmap(self._file, self._size)
        self._free = list(range(slots))

    def take(self) -> int | None:
        """A slot that nobody uses, None if there is none."""
        return self._free.pop() if self._free else None

    def give(self, slot: int) -> None:
        """Take `slot` back, which no child writes to any more."""
        self._free.append(slot)

    def unpack(self, packed: Packed, slot: int) -> Any:  # noqa: ANN401 - whatever was packed
        """What was packed, in memory of its own."""
        start = slot * SLOT_BYTES
        places = zip((0, *packed.ends), packed.ends, strict=False)
        with memoryview(self._memory) as memory:
            buffers = [bytearray(memory[start + begin : start + end]) for begin, end in places]
        return pickle.loads(packed.pickled, buffers=buffers)  # noqa: S301 - as what the pipe brings

    def __reduce__(self) -> tuple[Callable[..., Shared], tuple[object, int]]:
        """In a child that is being started: a `Shared`."""
        return _mapped, (reduction.DupFd(self._file), self._size)


def arena_of(slots: int) -> Arena | None:
    """An arena, or None where this system or its limits do not permit one."""
    try:
        return Arena(slots) if hasattr(os, "memfd_create") else None
    except OSError:
        return None


def _mapped(file: Any, size: int) -> Shared:  # noqa: ANN401 - multiprocessing's own
    descriptor = file.detach()
    try:
        return Shared(mmap.mmap(descriptor, size))
    finally:
        os.close(descriptor)
