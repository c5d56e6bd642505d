"""Duplicate ids, told with the places where they lie.

In: a manifest and the error that counts its duplicates. Out: a ManifestError that names column, files and rows. They
are looked for in a second reading of the ids, which only a manifest pays that has to be mended anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline.errors import DuplicateIdsError, ManifestError
from pipeline.manifest.manifest import Manifest
from pipeline.manifest.naming import column_name, shown

__all__ = ["naming_duplicates"]

_PLACES = 2
"""Rows named of each id: two are a pair to compare, and the count says how many more there are."""


@contextmanager
def naming_duplicates(manifest: Manifest, limit: int | None) -> Iterator[None]:
    """Turn a DuplicateIdsError about the first `limit` rows of `manifest` into a ManifestError with their places."""
    try:
        yield
    except DuplicateIdsError as error:
        column = column_name("id", manifest.columns.names["id"])
        places = _places(manifest, list(error.rows), limit)
        found = [" ".join([f"{shown(one)} ({n} rows)", ", ".join(places[one])]) for one, n in error.rows.items()]
        raise ManifestError(
            f"{column} of the manifest {manifest.path} has {error.total} duplicate ids; expected each id once; found "
            f"{'; '.join(map(str.strip, found))} (rows from 0)"
        ) from None


def _places(manifest: Manifest, ids: Sequence[str], limit: int | None) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {one: [] for one in ids}
    try:
        for one, file, row in manifest.find(ids, limit):
            if len(places[one]) < _PLACES:
                places[one].append(f"{file} row {row}")
            if all(len(found) == _PLACES for found in places.values()):
                break
    except Exception:  # noqa: BLE001 - a store that fails now must not hide what is wrong with the manifest
        return places
    return places
