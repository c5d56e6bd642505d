"""Fetching many small objects from S3: the fetcher's coroutines beside threads, and beside s3fs's own batch.

    python -m benchmarks.fetch [--objects 2000] [--kilobytes 100] [--delay-ms 0 30] [--rounds 3] [--out fetch.json]

A real S3 server (SeaweedFS) on loopback, and before it, in a process of its own, a proxy that waits before each answer
as a distant store does. Sides, in turn within each round: `fetcher` is `Fetcher.load_many`; `threads` are 16 threads
that each wait for one `cat_file` of s3fs, as the fetcher was before; `s3fs` is `cat` of a hundred URIs at a time, which
bounds neither bytes nor tries. Objects/s, and CPU seconds of this process for each thousand objects.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import s3fs

from pipeline.config import FetchConfig
from pipeline.fetch import Fetcher, FetchPolicy
from pipeline.types import LoadedItem, Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.faulty_proxy import Faults, FaultyProxy
from tests.fixtures.s3_server import S3Server

THREADS = 16
BATCH = 100


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the sides and print what they took; the document that `--out` gets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--delay-ms", type=float, nargs="+", default=[0, 30])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    document: dict[str, Any] = {"objects": given.objects, "kilobytes": given.kilobytes, "delays": {}}
    with S3Server() as server:
        uris = _fill(server, given.objects, bytes(given.kilobytes * 1000))
        for delay_ms in given.delay_ms:
            document["delays"][delay_ms] = _delayed(server, uris, delay_ms, given.rounds)
            print(f"{delay_ms:g} ms: {json.dumps(document['delays'][delay_ms])}")
    if given.out:
        given.out.write_text(json.dumps(document, indent=2))
    return document


def _fill(server: S3Server, objects: int, body: bytes) -> list[str]:
    bucket, fs = server.make_bucket("bench"), server.filesystem
    uris = [f"{bucket}/{number:06}" for number in range(objects)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda uri: fs.pipe_file(uri, body), uris))
    return uris


def _delayed(server: S3Server, uris: list[str], delay_ms: float, rounds: int) -> dict[str, Any]:
    ours, theirs = multiprocessing.Pipe()
    proxy = multiprocessing.get_context("spawn").Process(target=_proxy, args=(server.endpoint_url, delay_ms, theirs))
    proxy.start()
    try:
        options = {**server.storage_options["s3"], "endpoint_url": ours.recv()}
        sides = {"fetcher": _fetcher, "threads": _threads, "s3fs": _s3fs}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                took[name].append(_timed(side, options, uris))
    finally:
        ours.send("over")
        proxy.join()
    return _summary(took, len(uris))


def _proxy(upstream: str, delay_ms: float, caller: Connection) -> None:
    with FaultyProxy(upstream, faults=Faults(delay_s=delay_ms / 1000)) as proxy:
        caller.send(proxy.endpoint_url)
        caller.recv()


def _timed(
    side: Callable[[dict[str, Any], list[str]], int], options: dict[str, Any], uris: list[str]
) -> tuple[float, float]:
    side(options, uris[:50])  # connections and clients are made once a night
    wall, cpu = time.perf_counter(), time.process_time()
    assert side(options, uris) == len(uris)
    return time.perf_counter() - wall, time.process_time() - cpu


def _summary(took: dict[str, list[tuple[float, float]]], objects: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {
            "objects_s": round(objects / statistics.median(wall for wall, _ in each), 1),
            "cpu_s_per_1000": round(1000 * statistics.median(cpu for _, cpu in each) / objects, 3),
        }
        for name, each in took.items()
    }
    pairs = zip(took["threads"], took["fetcher"], strict=True)
    found["fetcher over threads"] = round(statistics.median(threads[0] / ours[0] for threads, ours in pairs), 2)
    return found


def _fetcher(options: dict[str, Any], uris: list[str]) -> int:
    policy = FetchPolicy.of(FetchConfig(storage_options={"s3": options}))
    items = (
        WorkItem(uri, (), (Media(MediaKind.IMAGE, (MediaRef(uri, "image", 0),)),), "i", 1.0, 8, "f", "", 0, 0)
        for uri in uris
    )
    with Fetcher(policy) as fetcher:
        return sum(isinstance(got, LoadedItem) for _, got in fetcher.load_many(items))


def _threads(options: dict[str, Any], uris: list[str]) -> int:
    fs = s3fs.S3FileSystem(**options, use_listings_cache=False)
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(len(body) > 0 for body in pool.map(fs.cat_file, uris))


def _s3fs(options: dict[str, Any], uris: list[str]) -> int:
    fs = s3fs.S3FileSystem(**options, use_listings_cache=False)
    return sum(len(fs.cat(uris[start : start + BATCH])) for start in range(0, len(uris), BATCH))


if __name__ == "__main__":
    main()
