"""Fixtures of the whole suite."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from pipeline.redaction import _Known
from pipeline.storage import Store, open_store
from tests.fixtures.ray_head import RayHead
from tests.fixtures.s3_server import S3Server

# A first example loads tables, and a machine may be busy: how long an example takes, or to make one, says nothing
# about what it shows.
settings.register_profile("lakevec", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lakevec")


class _HeadTogether(LoadScopeScheduling):
    """Every test by itself to whichever process is free, but those of whole jobs, which share a Ray head, to one.

    By their folder: xdist 3.8 reads the groups of `--dist loadgroup` from a field that pytest 9.2 no longer has, so the
    tests went to both processes, each with a head and with every module's finished run of its own.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "integration" if nodeid.startswith("tests/integration/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _HeadTogether:
    """How tests are shared out between the processes of `--numprocesses`."""
    return _HeadTogether(config, log)


@pytest.fixture(autouse=True)
def _nothing_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the tests of a process would hand on to each other: a test alone and one among thousands see the same.

    Secrets above all: each that a test made known, its server's too, would be taken out of what the later ones say.
    """
    monkeypatch.setattr("pipeline.redaction._known", _Known())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which `settle_limits` sets
    logger = logging.getLogger("lakevec")
    level = logger.level
    yield
    logger.setLevel(level)


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
