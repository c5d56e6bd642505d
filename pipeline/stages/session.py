"""The Ray session: every setting that lakevec makes in Ray is in this file, but those of one dataset (`chain`).

The reasons, as measured on Ray 2.60: one footer reader instead of 32 (9–17 s for a small work list, 3 s with one);
finite retries (by default an input that kills its process is retried for ever); no progress bars (outside a terminal
they print a dozen lines every ten seconds); at least four logical CPUs locally (on two, reads starve silently).
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline
from pipeline.config import ResourcesConfig
from pipeline.errors import ConfigError
from pipeline.redaction import redact
from pipeline.stages.exposure import exposure

# Ray reads these when it is imported, in this process.
os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about a changing default
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ log warns of ray#53727 once an actor, on stderr
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a user's lake is nobody's statistics

import ray
import ray.data
from ray._private import utils as ray_utils
from ray._private.services import find_bootstrap_address

__all__ = ["ACTOR_RETRIES", "TASK_RETRIES", "Cluster", "ray_session", "uploaded_working_dir"]

ACTOR_RETRIES: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 4}
"""With `max_errored_blocks`, the only measured combination that ends: the actor comes back as often as need be, and
a block that killed it five times is dropped (reconciling runs it again in smaller pieces). One item kills three at most
(`under_way`); the other two are for blocks that were in flight beside one."""

TASK_RETRIES: dict[str, Any] = {"max_retries": 3}

MIN_LOCAL_CPUS = 4
"""Logical CPUs of a local session: one encoder, one preparer, one for reads, one for writes and merges."""

_log = logging.getLogger("lakevec")

CONNECT_TIMEOUT_S = 10.0
"""Ray itself waits minutes for a head that is not there, and then aborts the process."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the session can use. `node_ids` are the living nodes."""

    cpus: float
    gpus: float
    node_ids: tuple[str, ...]


@contextmanager
def ray_session(resources: ResourcesConfig) -> Iterator[Cluster]:
    """Connect to a cluster, or start a local one, and leave it at the end.

    `resources.address`: `auto` is the cluster of RAY_ADDRESS or of a `ray start` on this host, else a local one;
    `local` always starts one; anything else is an address. Raises ConfigError if it cannot be reached.
    """
    address = _address(resources.address)
    options: dict[str, Any] = {
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "configure_logging": True,
    }
    if address is None:
        cpus = max(MIN_LOCAL_CPUS, os.cpu_count() or 1)
        _share_path()
        options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    else:
        options |= {"address": address, "runtime_env": _runtime_env()}
    if address is not None and not _answers(address):
        raise _unreachable(address, "nothing listens there")
    try:
        with _native_stderr_closed(), _entrypoint_redacted():
            context = ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address or "local", str(error)) from None
    try:
        warning = exposure(context.dashboard_url, os.environ)
        if warning:
            _log.warning("%s", warning)
        _quiet()
        _configure()
        yield _cluster()
    finally:
        ray.shutdown()


def _answers(address: str) -> bool:
    """Whether anything listens at `address`; addresses that are not host:port are left to Ray."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        return True
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S):
            return True
    except OSError:
        return False


def uploaded_working_dir() -> bool:
    """Whether this driver runs in a folder that Ray uploaded, which vanishes with the job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return bool((job.get("runtime_env") or {}).get("working_dir"))


def _address(configured: str) -> str | None:
    if configured == "local":
        return None
    if configured != "auto":
        return configured
    named = os.environ.get("RAY_ADDRESS")
    if named:
        return named
    # A `ray start` that died leaves its address behind: then there is no cluster.
    started = find_bootstrap_address(None)
    return started if started and _answers(started) else None


def _runtime_env() -> dict[str, Any] | None:
    # A submitted job's working dir already holds the package; setting the same field twice is refused by Ray.
    if uploaded_working_dir():
        return None
    return {"py_modules": [str(Path(pipeline.__file__).parent)]}


def _share_path() -> None:
    # Local workers inherit this environment, but not sys.path: without it they would find an installed lakevec, or
    # none, instead of the checkout that the driver runs from.
    root = str(Path(pipeline.__file__).parents[1])
    there = os.environ.get("PYTHONPATH", "")
    if root not in there.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *([there] if there else [])])


def _cluster() -> Cluster:
    total = ray.cluster_resources()
    nodes = tuple(sorted(node["NodeID"] for node in ray.nodes() if node["Alive"]))
    return Cluster(float(total.get("CPU", 0)), float(total.get("GPU", 0)), nodes)


def _unreachable(address: str, why: str) -> ConfigError:
    return ConfigError(
        f"no Ray cluster answers at {address}: {why}\n"
        "start one (`ray start --head`), name its address in resources.address, or set it to local"
    )


@contextmanager
def _entrypoint_redacted() -> Iterator[None]:
    # Ray tells its dashboard the driver's command line, which may hold `--set fetch.storage_options…`.
    original = getattr(ray_utils, "get_entrypoint_name", None)
    if original is None:
        yield
        return
    ray_utils.get_entrypoint_name = lambda: redact(original())
    try:
        yield
    finally:
        ray_utils.get_entrypoint_name = original


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    # Ray's C++ start-up announces its log level on file descriptor 2, whatever the level is. What goes wrong in
    # ray.init is raised, and logged in the session's folder.
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _quiet() -> None:
    # max_restarts has no named argument in 2.60, so the deprecated way is the only one; pyproject pins ray<2.64.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails is raised, and told by us


def _configure() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
