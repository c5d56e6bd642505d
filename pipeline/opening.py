"""Opening what a config names: whatever a store raises becomes a message that names the key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ConfigError, LakevecError, scrub
from pipeline.userinfo import without_userinfo

__all__ = ["opening"]


@contextmanager
def opening(key: str, path: str, verb: str = "open") -> Iterator[None]:
    """Turn what fails inside into a ConfigError: `key` of the config cannot be opened (or another `verb`) at `path`."""
    try:
        yield
    except LakevecError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system raises its own, botocore's are no OSError
        raise ConfigError(
            f"{key}: cannot {verb} {without_userinfo(path)}: {scrub(f'{type(error).__name__}: {error}')}; check the "
            "path, the credentials and fetch.storage_options"
        ) from None
