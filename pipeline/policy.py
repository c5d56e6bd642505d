"""What may be read: the schemes, folders, buckets and hosts that URIs of a manifest may point into.

In: a URI. Out: the local file or the scheme it means. Refused with RejectError (URI_NOT_ALLOWED), before any file or
socket is opened: other schemes, other buckets, hosts as `web.rules` has it, credentials in a URI, local files outside
the roots (symbolic links followed first) and those of the kernel. Raises ConfigError for schemes that cannot be read
at all.
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
from pipeline.local_files import LocalFile
from pipeline.manifest.location import scheme_of
from pipeline.patience import Patience
from pipeline.redaction import remember_options
from pipeline.userinfo import carries_userinfo, put_elsewhere
from pipeline.web.rules import WEB_SCHEMES, WebRules

__all__ = ["FetchPolicy"]

_WRAPPERS = frozenset(
    {
        "local", "reference", "generic", "simplecache", "filecache", "blockcache", "cached", "dir", "zip", "tar",
        "libarchive", "data",
    }
)  # fmt: skip
"""Drivers that open what a URI says within itself, past every rule here."""

_KERNEL = ("/proc", "/sys", "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - an ordinary file system
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"^[^:]+://([^/]*)")


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """`fetch` of the config with its defaults settled. `roots` are real paths (no symbolic link in them)."""

    schemes: frozenset[str]
    roots: tuple[str, ...]
    storage_options: Mapping[str, Mapping[str, Any]] = field(repr=False)  # it may hold secrets
    buckets: frozenset[str] | None
    web: WebRules
    max_bytes: int
    patience: Patience
    throttle_patience_s: float
    concurrency: int

    def __post_init__(self) -> None:
        # Also in a worker that unpickled it: what is logged there is redacted there.
        remember_options(self.storage_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return FetchPolicy, tuple(getattr(self, each.name) for each in fields(self))

    @classmethod
    def of(cls, fetch: FetchConfig, manifest_folder: str | None = None) -> FetchPolicy:
        """The policy of `fetch`; without `local_roots` local files may lie in `manifest_folder`, if that is local.

        Raises ConfigError for a scheme without a driver, and for http(s) without hosts.
        """
        for scheme in fetch.schemes:
            _check_scheme(scheme)
        local_folder = manifest_folder if manifest_folder and scheme_of(manifest_folder) == "file" else None
        given = fetch.local_roots if fetch.local_roots is not None else [local_folder] if local_folder else []
        return cls(
            schemes=frozenset(fetch.schemes),
            roots=tuple(os.path.realpath(os.path.expanduser(root)) for root in given),  # noqa: PTH111
            storage_options=fetch.storage_options,
            buckets=None if fetch.buckets is None else frozenset(fetch.buckets),
            web=WebRules.of(fetch.schemes, fetch.hosts, fetch.private_hosts),
            max_bytes=fetch.max_bytes,
            patience=Patience(fetch.timeout_s, fetch.retries),
            throttle_patience_s=fetch.throttle_patience_s,
            concurrency=fetch.concurrency,
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
        if carries_userinfo(uri):
            raise _not_allowed(f"the URI carries credentials; {put_elsewhere(uri)}")
        if scheme == "file" and authority:
            raise _not_allowed("the file URI names another host")
        if scheme in WEB_SCHEMES:
            self.web.check(uri)
        elif scheme != "file":
            self._check_bucket(scheme, uri)
        return scheme

    def is_strange(self, uri: str) -> bool:
        """Whether `uri` names a web host that is let in with all public ones, and not by its name."""
        if scheme_of(uri) not in WEB_SCHEMES:
            return False
        try:
            return not self.web.is_named(self.web.check(uri).raw_host or "")
        except RejectError:
            return True

    def local_file(self, uri: str) -> LocalFile:
        """The file that a local `uri` means. Raises RejectError(URI_NOT_ALLOWED) if it lies in none of the roots."""
        self.check(uri)
        real = _real(uri)
        # A path that does not start at / is relative to nobody: `location.locate` makes all of ours absolute.
        root = None if real is None or not uri.startswith("/") else self._root_of(real)
        if real is None or root is None:
            raise _not_allowed("the file lies in no folder of fetch.local_roots")
        if _is_kernels(real):
            raise _not_allowed("the path is one of the kernel's")
        return LocalFile(root, os.path.relpath(real, root))

    def is_inside(self, folder: str) -> bool:
        """Whether the local `folder`, its links followed, is one of the roots or lies in one."""
        real = _real(folder)
        return real is not None and self._holds(real)

    def _holds(self, real: str) -> bool:
        return self._root_of(real) is not None

    def _root_of(self, real: str) -> str | None:
        return next((root for root in self.roots if real == root or real.startswith(root.rstrip("/") + "/")), None)

    def _check_bucket(self, scheme: str, uri: str) -> None:
        # By prefix, not by the part before a slash: the ARN of an access point holds one.
        if self.buckets is None or any(uri[len(scheme) + 3 :].startswith(f"{each}/") for each in self.buckets):
            return
        raise _not_allowed("the bucket is not in fetch.buckets")


def _real(path: str) -> str | None:
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):  # a name that the file system cannot spell
        return None


def _is_kernels(real: str) -> bool:
    below = real + "/"
    return any(below.startswith(f"{each}/") for each in _KERNEL) and not below.startswith(f"{_SHARED_MEMORY}/")


def _check_scheme(scheme: str) -> None:
    if scheme in WEB_SCHEMES:
        return
    if scheme in _WRAPPERS:
        raise ConfigError(f"fetch.schemes: {scheme} reads what a URI says within itself, past every rule of fetch")
    try:
        fsspec.get_filesystem_class(scheme)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"fetch.schemes: {scheme} cannot be read: {error}") from None


def _not_allowed(why: str) -> RejectError:
    return RejectError(RejectCode.URI_NOT_ALLOWED, why)
