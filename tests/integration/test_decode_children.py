"""Decoding children under real Ray: an actor outlives its items, and takes its children with it when it is killed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fixtures.jobs import ROOT
from tests.fixtures.ray_head import RayHead

DRIVER = """
import os, sys, time
import ray
from pipeline.config import DecodeConfig
from pipeline.decode_pool import DecodePool
from pipeline.errors import RejectError
from pipeline.preparation import Preparation
from tests.fixtures.harmful import harmful, items

@ray.remote(max_restarts=0, num_cpus=0)
class Actor:
    def __init__(self):
        self.pool = DecodePool(harmful, DecodeConfig(timeout_s=2))
    def made(self, contents):
        made = Preparation(self.pool).many(items(contents))
        return os.getpid(), [str(got.code) if isinstance(got, RejectError) else got for _, got in made]
    def hang(self):
        ((_, item, maker),) = items([b"hang"])
        pid = self.pool.check().result().pid
        self.pool.submit(maker.job(item))
        return pid
    def modules(self):
        return sorted({name.split(".")[0] for name in sys.modules} & {"torch", "av", "PIL", "simplejpeg"})

ray.init(address=sys.argv[1], log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.argv[2]}})
actor = Actor.remote()
first, results = ray.get(actor.made.remote([b"1", b"segfault", b"2", b"hang", b"3", None, b"4"]))
second, _ = ray.get(actor.made.remote([b"5"]))
print(first == second, results, ray.get(actor.modules.remote()))
child = ray.get(actor.hang.remote())
time.sleep(1)
alive = os.path.exists(f"/proc/{child}")
ray.kill(actor)
until = time.monotonic() + 30
while os.path.exists(f"/proc/{child}") and time.monotonic() < until:
    time.sleep(0.1)
print(alive, os.path.exists(f"/proc/{child}"))
"""


@pytest.mark.ray
def test_an_actor_outlives_its_items_and_its_children_do_not_outlive_it(ray_head: RayHead) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, ray_head.address, str(ROOT)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [1, "DECODER_CRASHED", 2, "DECODE_TIMEOUT", 3, -1, 4]
    assert done.stdout.splitlines() == [f"True {results} []", "True False"]
