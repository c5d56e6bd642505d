"""How messages about a manifest name columns, values and rows.

In: what the config and the files say. Out: words. Nothing is refused here.
"""

from __future__ import annotations

from pipeline.redaction import redact

__all__ = ["SHOWN", "column_name", "shown"]

SHOWN = 5
"""Offending rows that a message names: enough to find the pattern."""

_VALUE_CHARS = 80
"""Of a value that a message repeats: ids and texts can be megabytes."""


def column_name(role: str, name: str) -> str:
    """`column 'key' (id)`: the column as the user's file has it, and its role where that is another word."""
    return f"column {name!r}" if name == role else f"column {name!r} ({role})"


def shown(value: object) -> str:
    """`value` as in Python, without secrets, cut where it is long."""
    text = redact(repr(value))  # before it is cut: half a secret would be recognised by nothing
    return text if len(text) <= _VALUE_CHARS else f"{text[:_VALUE_CHARS]}…"
