"""What may be read: the schemes and the folders that URIs of a manifest may point into.

In: a URI. Out: the local path or the object it means. Refused with RejectError (URI_NOT_ALLOWED): other schemes,
credentials in a URI, local files outside the roots (symbolic links followed first). Raises ConfigError for schemes
that cannot be read at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import fsspec

from pipeline.config import FetchConfig
from pipeline.errors import ConfigError, RejectCode, RejectError
from pipeline.manifest.location import scheme_of
from pipeline.redaction import remember_options

__all__ = ["FetchPolicy"]

_UNSUPPORTED = ("http", "https")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"^[^:]+://([^/]*)")


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """`fetch` of the config with its defaults settled. `roots` are real paths (no symbolic link in them)."""

    schemes: frozenset[str]
    roots: tuple[str, ...]
    storage_options: Mapping[str, Mapping[str, Any]] = field(repr=False)  # it may hold secrets
    max_bytes: int
    timeout_s: float
    retries: int

    def __post_init__(self) -> None:
        # Also in a worker that unpickled it: what is logged there is redacted there.
        remember_options(self.storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return FetchPolicy, tuple(getattr(self, each.name) for each in fields(self))

    @classmethod
    def of(cls, fetch: FetchConfig, manifest_folder: str | None = None) -> FetchPolicy:
        """The policy of `fetch`; without `local_roots` local files may lie in `manifest_folder`, if that is local.

        Raises ConfigError for a scheme without a driver, and for http and https.
        """
        for scheme in fetch.schemes:
            _check_scheme(scheme)
        local_folder = manifest_folder if manifest_folder and scheme_of(manifest_folder) == "file" else None
        given = fetch.local_roots if fetch.local_roots is not None else [local_folder] if local_folder else []
        return cls(
            schemes=frozenset(fetch.schemes),
            roots=tuple(os.path.realpath(os.path.expanduser(root)) for root in given),  # noqa: PTH111
            storage_options=fetch.storage_options,
            max_bytes=fetch.max_bytes,
            timeout_s=fetch.timeout_s,
            retries=fetch.retries,
        )

    def check(self, uri: str) -> str:
        """The scheme of `uri` if it may be read; no I/O. Raises RejectError(URI_NOT_ALLOWED)."""
        scheme = scheme_of(uri)
        if not uri:
            raise _not_allowed("the URI is empty")
        if scheme not in self.schemes:
            raise _not_allowed(f"the scheme {scheme!r} is not in fetch.schemes")
        if _CONTROL.search(uri):
            raise _not_allowed("the URI holds control characters")
        authority = _AUTHORITY.match(uri)
        if authority and "@" in authority[1]:
            raise _not_allowed("the URI carries credentials; put them under fetch.storage_options")
        if scheme == "file" and authority:
            raise _not_allowed("the file URI names another host")
        return scheme

    def local_path(self, uri: str) -> str:
        """The real path of a local `uri`. Raises RejectError(URI_NOT_ALLOWED) if it lies in none of the roots."""
        self.check(uri)
        real = _real(uri)
        # A path that does not start at / is relative to nobody: `location.locate` makes all of ours absolute.
        if real is None or not uri.startswith("/") or not self._holds(real):
            raise _not_allowed("the file lies in no folder of fetch.local_roots")
        return real

    def is_inside(self, folder: str) -> bool:
        """Whether the local `folder`, its links followed, is one of the roots or lies in one."""
        real = _real(folder)
        return real is not None and self._holds(real)

    def _holds(self, real: str) -> bool:
        return any(real == root or real.startswith(root.rstrip("/") + "/") for root in self.roots)


def _real(path: str) -> str | None:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a name that the file system cannot spell
        return None


def _check_scheme(scheme: str) -> None:
    if scheme in _UNSUPPORTED:
        raise ConfigError(f"fetch.schemes: {scheme} is not supported yet; copy the files to a folder or a bucket")
    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"fetch.schemes: {scheme} cannot be read: {error}") from None


def _not_allowed(why: str) -> RejectError:
    return RejectError(RejectCode.URI_NOT_ALLOWED, why)
