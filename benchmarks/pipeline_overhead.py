"""What Ray costs: the whole chain with a null encoder against the same stages in a plain process pool.

    python -m benchmarks.pipeline_overhead [--out FILE] [--preparers N] [--block-items N]

Both sides prepare the same work list in the same number of processes, hand the windows to one process with a null
encoder (as a pool must too: only one process has the model), and write the same Parquet parts. Throughput counts from
the first tenths of the items to the last: starting Ray and its actors is shown apart. Goal: Ray at 0.8 of the pool.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.null_stages import HIDDEN_DIM, NullEncodeStage, null_encoder, prepare_block, start_preparer
from pipeline.checkpoint import resolve_checkpoint
from pipeline.config import (
    DecodeConfig,
    FetchConfig,
    InputsConfig,
    ModelConfig,
    ResourcesConfig,
    RunConfig,
    VectorSpec,
)
from pipeline.manifest.work import to_work_table
from pipeline.policy import FetchPolicy
from pipeline.stages.chain import Chain, ReceiptStream, Step, build_chain
from pipeline.stages.encode import EncodeSettings
from pipeline.stages.meter import start_meter
from pipeline.stages.no_progress import LEAST_S
from pipeline.stages.pools import Pools
from pipeline.stages.prepare import PrepareStage
from pipeline.stages.preparing import PrepareSettings
from pipeline.stages.session import ray_session
from pipeline.stages.window_limits import WindowLimits
from pipeline.stages.write import WriteSettings, write_outcomes
from pipeline.storage import Store, open_store
from pipeline.types import Media, MediaKind, MediaRef, WorkItem
from tests.fixtures.media import encode_image, photo
from tests.fixtures.tiny_model import build_tiny_model

TEXT = "The river runs past an old mill where people used to bring grain, and talk about the weather. " * 3
PICTURES = 24  # different files; items beyond them read the same ones again
POOL_BLOCK_ITEMS = {"texts": 1 << 20, "images": 32}
"""Items of one task of the pool, whose windows come back in one pickle: about 64 MiB of pixels, as a window holds."""

POLL_S = 0.2
WARM_UP_SHARE = 0.2
"""Of the items, before the clock starts: by then every actor works and the queues between them are filled."""


@dataclass(frozen=True, slots=True)
class Timing:
    """`items_s` from the end of the warm-up to the last item, `start_s` until the first item, `total_s` in all."""

    items_s: float
    start_s: float
    total_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--preparers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--block-items", type=int, default=RunConfig().block_items)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--images", type=int, default=4_000)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="lakevec-bench-") as name:
        folder = Path(name)
        build_tiny_model(folder / "model")
        corpora = {"texts": _texts(options.texts), "images": _images(folder, options.images)}
        store = open_store(str(folder / "out"), {})
        paths = {kind: _write_work(store, kind, work) for kind, work in corpora.items()}
        chain = _chain(folder, store, options.preparers)
        pool = {kind: _in_pool(chain, kind, work, options) for kind, work in corpora.items()}
        with ray_session(ResourcesConfig(address="local")):
            meter = start_meter()
            for kind, work in corpora.items():
                on_ray = _on_ray(replace(chain, meter=meter), paths[kind], work.num_rows, options.block_items)
                rows.append({"kind": kind, "items": work.num_rows, "pool": pool[kind], "ray": on_ray})
    _show(rows)
    if options.out:
        facts = {"preparers": options.preparers, "block_items": options.block_items, "cores": os.cpu_count()}
        document = facts | {"rows": [row | {side: vars_of(row[side]) for side in ("pool", "ray")} for row in rows]}
        options.out.write_text(json.dumps(document, indent=1) + "\n")


def vars_of(timing: Timing) -> dict[str, float]:
    """`timing` as JSON has it."""
    return {"items_s": timing.items_s, "start_s": timing.start_s, "total_s": timing.total_s}


def _texts(count: int) -> pa.Table:
    return to_work_table([_item(number, (f"{number}: {TEXT}",), ()) for number in range(count)])


def _images(folder: Path, count: int) -> pa.Table:
    paths = []
    for seed in range(PICTURES):
        path = folder / f"{seed}.jpg"
        path.write_bytes(encode_image(photo(1024, 768, seed), "JPEG", quality=90))
        paths.append(str(path))
    refs = [(Media(MediaKind.IMAGE, (MediaRef(path, "image", 0),)),) for path in paths]
    return to_work_table([_item(number, (), refs[number % PICTURES]) for number in range(count)])


def _item(number: int, texts: tuple[str, ...], media: tuple[Media, ...]) -> WorkItem:
    return WorkItem(f"{number:08d}", texts, media, None, None, None, "f", "m", number, 0)


def _write_work(store: Store, kind: str, work: pa.Table) -> str:
    path = f"_work/{kind}.parquet"
    target = Path(store.full(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(work, target)
    return path


def _chain(folder: Path, store: Store, preparers: int) -> Chain:
    model = ModelConfig(path=str(folder / "model"))
    identity = resolve_checkpoint(model, weights=False).identity
    run, specs = RunConfig(), (VectorSpec(),)
    policy = FetchPolicy.of(FetchConfig(schemes=("file",), local_roots=(str(folder),)))
    window = WindowLimits.of(run)
    prepare = PrepareSettings(model, identity, InputsConfig(dedupe=False), policy, DecodeConfig(), window)
    return Chain(
        prepare=Step(PrepareStage, prepare),
        encode=Step(NullEncodeStage, EncodeSettings(model, identity, specs, (), False, "cpu")),
        write=Step(write_outcomes, WriteSettings(store, "bench", pa.string(), (), specs, HIDDEN_DIM, {})),
        # A quarter of a logical CPU each: what is compared is work done, not how Ray shares out four of them.
        pools=Pools(preparers, 0.25, 1, 0.25, 0),
        part_items=None,
        window=window,
        no_progress_s=LEAST_S,
        meter=None,
    )


def _in_pool(chain: Chain, kind: str, work: pa.Table, options: argparse.Namespace) -> Timing:
    started = time.monotonic()
    # Fresh interpreters, as Ray's workers are; a fork of this one would bring the parent's threads' locks.
    with ProcessPoolExecutor(
        options.preparers, get_context("spawn"), start_preparer, (chain.prepare.settings,)
    ) as pool:
        return _timed(started, work.num_rows, _pooled(pool, chain, kind, work, options))


def _pooled(
    pool: ProcessPoolExecutor, chain: Chain, kind: str, work: pa.Table, options: argparse.Namespace
) -> Iterator[int]:
    encode = null_encoder(chain.encode.settings)
    size = min(options.block_items, POOL_BLOCK_ITEMS[kind])
    blocks = (work.slice(start, size) for start in range(0, work.num_rows, size))
    # Two blocks a process: it never waits for the next one, and its windows do not pile up here.
    waiting = deque(pool.submit(prepare_block, block) for block in islice(blocks, 2 * options.preparers))
    while waiting:
        windows = waiting.popleft().result()
        waiting.extend(pool.submit(prepare_block, block) for block in islice(blocks, 1))
        for window in windows:
            receipt = write_outcomes(encode(window), chain.write.settings)
            yield int(receipt.column("items")[0].as_py())


def _on_ray(chain: Chain, path: str, count: int, block_items: int) -> Timing:
    started = time.monotonic()
    dataset = build_chain(chain, chain.write.settings.store, [path], block_items, 0)
    return _timed(started, count, _received(ReceiptStream(dataset)))


def _received(stream: ReceiptStream) -> Iterator[int]:
    while (receipts := stream.poll(POLL_S)) is not None:
        if receipts.num_rows:
            yield sum(receipts.column("items").to_pylist())


def _timed(started: float, count: int, done: Iterator[int]) -> Timing:
    seen, first, warm = 0, 0.0, (0, 0.0)
    for items in done:
        now = time.monotonic()
        first = first or now
        seen += items
        if not warm[0] and seen >= WARM_UP_SHARE * count:
            warm = seen, now
    ended = time.monotonic()
    if seen != count:
        raise SystemExit(f"{count} items went in, {seen} came out")
    return Timing((seen - warm[0]) / (ended - warm[1]), first - started, ended - started)


def _show(rows: list[dict[str, Any]]) -> None:
    print("| items | pool items/s | Ray items/s | ratio | pool start s | Ray start s | pool total s | Ray total s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        pool, ray = row["pool"], row["ray"]
        print(
            f"| {row['items']:,} {row['kind']} | {pool.items_s:,.0f} | {ray.items_s:,.0f} | "
            f"{ray.items_s / pool.items_s:.2f} | {pool.start_s:.1f} | {ray.start_s:.1f} | {pool.total_s:.1f} | "
            f"{ray.total_s:.1f} |"
        )


if __name__ == "__main__":
    main()
