"""Fixtures of the whole suite."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.storage import Store, open_store
from tests.fixtures.ray_head import RayHead
from tests.fixtures.s3_server import S3Server

# A first example loads tables, and a machine may be busy: how long an example takes says nothing about what it shows.
settings.register_profile("lakevec", settings(), deadline=None)
settings.load_profile("lakevec")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in a hook of the same name
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (`--dist loadgroup`), keep the tests that share the session's Ray head in one."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One real S3 server for the session; each test makes its own bucket or folder."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """URI of a bucket for the session; each test takes a folder of its own in it."""
    return s3_server.make_bucket("lakevec-tests")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store: a local folder, then a folder on the real S3 server."""
    if request.param == "local":
        return open_store(str(tmp_path / "out"))
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("s3_bucket")
    return open_store(f"{bucket}/{uuid.uuid4().hex}", server.storage_options)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[RayHead]:
    """One Ray head for the session; jobs of the tests connect to it."""
    with RayHead() as head:
        yield head
