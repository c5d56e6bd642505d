"""Files of one record a line: text, or a JSON object.

In: a file, compressed or not. Out: its lines with their numbers from 1, blank ones left out. Refused with
ManifestError, naming file and line: what cannot be read, other encodings than UTF-8, lines that are no JSON object.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ManifestError
from pipeline.manifest.listing import ManifestFile
from pipeline.manifest.naming import shown
from pipeline.manifest.readers import Options, opened, reading

__all__ = ["Record", "lines_of", "records_of"]

_MISSING = object()


def lines_of(file: ManifestFile, options: Options) -> Iterator[tuple[int, str]]:
    """The lines of `file` without their ends, and their numbers. Raises ManifestError."""
    with reading(file.uri), opened(file, options) as handle:
        # Only "\\n" ends a line: JSON strings and ids may hold the other separators that Unicode knows.
        for number, line in enumerate(io.TextIOWrapper(handle, "utf-8-sig", newline="\n"), start=1):
            if line.strip():
                yield number, line.rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Record:
    """An object of a JSON Lines file and where it stands."""

    file: str
    line: int
    values: dict[str, Any]

    @property
    def place(self) -> str:
        """The record as messages call it."""
        return f"line {self.line} of {self.file}"

    def get(self, key: str, kinds: tuple[type, ...], what: str) -> Any:  # noqa: ANN401 - as given in `kinds`
        """The value of `key`, which must be of `kinds`; lone surrogates in a string become question marks.

        Raises ManifestError saying that `what` was expected.
        """
        value = self.values.get(key, _MISSING)
        if value is _MISSING:
            raise ManifestError(
                f"{self.place} has no {key!r} ({what}); found the keys {', '.join(map(repr, self.values))}"
            )
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ManifestError(f"{self.place}: expected {what} in {key!r}; found {shown(value)}")
        return _well_formed(value) if isinstance(value, str) else value

    def number(self, key: str, what: str) -> float:
        """The number in `key`. Raises ManifestError saying that `what` was expected."""
        found = self.get(key, (int, float), what)
        try:
            return float(found)
        except OverflowError:  # JSON's whole numbers have any length
            raise ManifestError(
                f"{self.place}: expected {what} that a float64 holds in {key!r}; found {shown(found)}"
            ) from None

    def identity(self, key: str) -> str:
        """The id in `key`: a string, or an integer as one. Raises ManifestError."""
        found = self.get(key, (str, int), "an id (string or integer)")
        if found != self.values[key]:
            raise ManifestError(f"{self.place}: the id in {key!r} is no Unicode text, half a surrogate pair is in it")
        return str(found)

    def within(self, key: str, values: object) -> Record:
        """`values`, found under `key`, as a record of the same line. Raises ManifestError unless it is an object."""
        if not isinstance(values, dict):
            raise ManifestError(f"{self.place}: expected an object in {key!r}; found {shown(values)}")
        return Record(self.file, self.line, values)


def records_of(file: ManifestFile, options: Options) -> Iterator[Record]:
    """The objects of `file`. Raises ManifestError."""
    for number, line in lines_of(file, options):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"line {number} of {file.uri} is no JSON: {error}") from None
        if not isinstance(values, dict):
            raise ManifestError(f"line {number} of {file.uri} is no JSON object: {shown(values)}")
        yield Record(file.uri, number, values)


def _well_formed(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON escapes can hold what is no Unicode text
