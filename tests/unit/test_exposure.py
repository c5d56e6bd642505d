"""A dashboard that strangers may reach is told of."""

from __future__ import annotations

import pytest

from pipeline.stages.exposure import exposure


@pytest.mark.parametrize("address", ["0.0.0.0:8265", "10.1.2.3:8265", "[::]:8265", "head.lan:8265", "http://8.8.8.8:1"])
def test_an_open_dashboard(address: str) -> None:
    assert address in (exposure(address, {}) or "")
    assert exposure(address, {"RAY_AUTH_MODE": "disabled"})
    assert exposure(address, {"RAY_AUTH_MODE": "token"}) is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "localhost:8265", "[::1]:8265", "http://127.0.0.2:8265", "", None]
)
def test_nobody_else_reaches_this_one(address: str | None) -> None:
    assert exposure(address, {}) is None
