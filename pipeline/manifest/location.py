"""Where a media URI of a manifest points.

In: the manifest's folder and a URI or path as the manifest has it. Out: a local absolute path or a full URI.
Nothing is refused here: `fetch` judges what it is asked to read.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

__all__ = ["locate", "scheme_of"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_FILE_PATH = re.compile(r"^file:/(?!/)", re.IGNORECASE)


def scheme_of(uri: str) -> str:
    """The scheme of `uri` in lower case; `file` for a plain path."""
    match = _SCHEME.match(uri)
    if match:
        return match[1].lower()
    # A local file may be called `a:b`; `data:` has no `//` either, and is never meant as a name.
    return "data" if uri[:5].lower() == "data:" else "file"


def locate(folder: str, uri: str) -> str:
    """`uri` as it is if absolute, else below `folder`; `file://` URIs become paths (percent-decoded, RFC 8089).

    `file:/path` is one of them: Spark and Hadoop write local files so. `..` of a relative URI is resolved as in a path,
    and stops at the bucket.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        if _FILE_PATH.match(uri):
            return unquote(uri[len("file:") :])
        match = _SCHEME.match(uri)
        if match:
            host, slash, path = uri[match.end() :].partition("/")
            # file://host/x means another machine; keep it as it is for `fetch` to refuse.
            return unquote(slash + path) if host in ("", "localhost") else uri
    if scheme != "file" or uri.startswith("/") or not uri:
        return uri
    base = _SCHEME.match(folder)
    if base is None:
        return f"{folder.rstrip('/')}/{uri}"
    bucket, _, inner = folder[base.end() :].partition("/")
    return base[0] + bucket + posixpath.normpath(posixpath.join("/", inner, uri))
