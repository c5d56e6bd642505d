"""Whether strangers may give a Ray cluster work: its dashboard runs what it is given, as the user who started it.

In: the dashboard's address and the environment. Out: a warning, or None. Nothing is refused: what lies between the
dashboard and the strangers is not known here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

__all__ = ["exposure"]

_TOKENS = "token"
"""What RAY_AUTH_MODE is where Ray asks for a token (2.52 and newer)."""


def exposure(dashboard: str | None, environment: Mapping[str, str]) -> str | None:
    """What to say of the dashboard at `dashboard` (`host:port`), None where nobody outside this host reaches it."""
    if not dashboard or environment.get("RAY_AUTH_MODE", "").lower() == _TOKENS:
        return None
    host = dashboard.removeprefix("http://").removeprefix("https://").rpartition(":")[0].strip("[]")
    if host == "localhost" or _is_loopback(host):
        return None
    return (
        f"Ray's dashboard at {dashboard} asks for no token: whoever reaches it can run code on the cluster, with its "
        "credentials; keep it off public networks, or set RAY_AUTH_MODE=token on every node"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
