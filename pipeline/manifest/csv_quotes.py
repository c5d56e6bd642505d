"""The quotes of a CSV file, checked while its bytes pass.

In: an open CSV file, UTF-8. Out: the same bytes. Refused with pa.ArrowInvalid, naming lines from 1: a quoted cell that
never ends, and quotes where RFC 4180 has none (inside a cell that no quote opens, or closing one that goes on). pyarrow
takes all three, and a single quote too many then swallows every row up to the next one.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["CheckedQuotes", "QuoteCheck"]

_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_QUOTE: Final = ord('"')

# The quote that opens a cell follows one of these, the one that closes it is followed by one: a comma, a line's end, or
# the other half of a doubled quote. In UTF-8 none of these bytes is ever part of another character.
_BESIDE: NDArray[np.bool_] = np.isin(np.arange(256), list(b',\r\n"'))


class CheckedQuotes(io.RawIOBase):
    """`file`, for one reading from start to end; `check` says how far its quotes were good."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.check = QuoteCheck()

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes of the file. Raises pa.ArrowInvalid as the check does."""
        block = self._file.read(size)
        if block:
            self.check.feed(block)
        else:
            self.check.end()
        return block


class QuoteCheck:
    """Counts quotes: within a good file the odd ones open (or open again, after a doubled one), the even ones close."""

    def __init__(self) -> None:
        self._start = True
        self._inside = False
        self._before = ord("\n")
        self._held = b""
        self._line = 1
        self._opened_line = 0

    @property
    def open_line(self) -> int | None:
        """The line in which the quoted cell began that has not ended yet; None outside of one."""
        return self._opened_line if self._inside else None

    def feed(self, block: bytes) -> None:
        """Check the file's next bytes. Raises pa.ArrowInvalid."""
        if self._start:
            self._start, block = False, block.removeprefix(_BOM)
            if block.startswith(_UTF16_BOMS):
                raise pa.ArrowInvalid("the file is UTF-16; expected UTF-8")
        if self._held:
            block, self._held = self._held + block, b""
        if block.endswith(b'"'):
            # What a quote means is known once the byte after it is.
            block, self._held = block[:-1], b'"'
        if block:
            self._feed(block)

    def end(self) -> None:
        """Check that the file may end here. Raises pa.ArrowInvalid."""
        if self._held:
            self._held = b""
            self._feed(b'"\n')
        if self._inside:
            raise pa.ArrowInvalid(
                f"the quoted cell that begins in line {self._opened_line} never ends; close its quote"
            )

    def _feed(self, block: bytes) -> None:
        data = np.frombuffer(block, np.uint8)
        quotes = np.flatnonzero(data == _QUOTE)
        if len(quotes):
            self._judge(block, data, quotes)
        self._before = block[-1]
        self._line += block.count(b"\n")

    def _judge(self, block: bytes, data: NDArray[np.uint8], quotes: NDArray[np.intp]) -> None:
        closes = (np.arange(len(quotes)) + self._inside) % 2 == 1
        before = np.where(quotes > 0, data[quotes - 1], self._before)
        after = data[np.minimum(quotes + 1, len(data) - 1)]
        if quotes[-1] == len(data) - 1:
            after[-1] = _QUOTE  # only before one that is held does a block end in a quote
        beside = np.where(closes, after, before)
        bad = np.flatnonzero(~_BESIDE[beside])
        good = quotes if not len(bad) else quotes[: bad[0]]
        begins = good[(~closes & (before != _QUOTE))[: len(good)]]
        if len(begins):
            self._opened_line = self._line + block.count(b"\n", 0, int(begins[-1]))
        if len(bad):
            at = int(quotes[bad[0]])
            self._refuse(self._line + block.count(b"\n", 0, at), bool(closes[bad[0]]))
        self._inside = not closes[-1]

    def _refuse(self, line: int, closes: bool) -> None:
        if closes:
            raise pa.ArrowInvalid(
                f"line {line}: text follows the quote that closes a cell, and that cell begins in line "
                f"{self._opened_line}; close it there, and double each quote that belongs to its text"
            )
        last = f" (the last quoted cell before it begins in line {self._opened_line})" if self._opened_line else ""
        raise pa.ArrowInvalid(
            f"line {line}: a quote stands within a cell that does not begin with one{last}; "
            "put the whole cell in quotes and double those of its text"
        )
