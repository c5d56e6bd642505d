"""The one place where what native decoders raise becomes a reject.

In: any exception type seen coming out of Pillow, libheif or FFmpeg on 60,000 damaged files. Out: a `RejectError`.
Not listed, so not hidden: MemoryError, KeyboardInterrupt and our own defects (AssertionError, NameError, …).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import RejectCode, RejectError

__all__ = ["DAMAGE", "translated"]

DAMAGE: tuple[type[Exception], ...] = (
    OSError,  # truncated, unidentified, broken stream
    ValueError,  # sizes, text-chunk limits, text in no encoding
    SyntaxError,  # Pillow plugins' "not a … file"
    RuntimeError,  # libheif, and NotImplementedError of rare variants
    EOFError,
    LookupError,  # IndexError, KeyError: tables that damage points past
    ArithmeticError,  # division by a zero resolution, overflow of an absurd size
    TypeError,  # Pillow on tags of the wrong type
    AttributeError,  # Pillow on decoders left half-built
    struct.error,
    zlib.error,
)
"""Everything that damaged bytes make an image decoder raise; `pipeline.decode.container` has FFmpeg's list."""


@contextmanager
def translated(code: RejectCode, what: str, damage: tuple[type[Exception], ...] = DAMAGE) -> Iterator[None]:
    """Turn an exception of `damage` into `RejectError(code)` whose detail names `what`; rejects pass as they are."""
    try:
        yield
    except (RejectError, MemoryError):
        raise  # PyAV's own MemoryError is an OSError too
    except damage as error:
        raise RejectError(code, f"{what}: {type(error).__name__}: {error}") from None
