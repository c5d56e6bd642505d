"""What decoding in a child costs: clean media read in a child and in process, side by side in one run, as ratios.

In: how many rounds. Out: for each kind of media files a second both ways and their ratio (1 is no loss), by the wall
clock and by CPU time of actor and child together; and how soon a child is back that was killed. Both ways make the
whole item ready for its window, tokens included, as the job's actor does.

    OMP_NUM_THREADS=1 python -m benchmarks.decode_child --rounds 5
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.heap import keep_freed_memory
from pipeline.preparation import Preparation
from pipeline.prepare import Preparer
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind
from tests.fixtures.media import clip, encode_image, encode_video, photo, screenshot
from tests.fixtures.tokenizer import cached_tokenizer

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over some media: seconds by the wall clock, and of CPU in all processes."""

    wall_s: float
    cpu_s: float


def media() -> dict[str, list[LoadedItem]]:
    photos = [encode_image(photo(1200, 900, n), "JPEG", quality=85) for n in range(24)]
    pages = [encode_image(screenshot(1280, 800, f"page {n}"), "PNG") for n in range(24)]
    clips = [encode_video(clip(40, 320, 240, n), container="mp4", codec="h264", fps=10) for n in range(8)]
    return {
        "JPEG photos of 1 MP": _items(MediaKind.IMAGE, photos),
        "PNG screenshots of 1 MP": _items(MediaKind.IMAGE, pages),
        "H.264 clips of 4 s, 320×240": _items(MediaKind.VIDEO, clips),
    }


def _items(kind: MediaKind, files: Sequence[bytes]) -> list[LoadedItem]:
    return [LoadedItem(str(n), ("a caption",), (LoadedMedia(kind, (data,)),)) for n, data in enumerate(files)]


def timed(work: Callable[[], None], child: int | None) -> Pass:
    began, cpu = time.perf_counter(), time.process_time() + _cpu_s(child)
    work()
    return Pass(time.perf_counter() - began, time.process_time() + _cpu_s(child) - cpu)


def _cpu_s(pid: int | None) -> float:
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def compare(name: str, items: list[LoadedItem], preparer: Preparer, pool: DecodePool, rounds: int) -> None:
    child = pool.check().result().pid

    def here() -> None:
        for item in items:
            preparer.prepare(item)

    def there() -> None:
        for _, made in Preparation(pool).many((None, item, preparer) for item in items):
            if isinstance(made, Exception):
                raise made

    here()
    there()
    pairs = [(timed(here, None), timed(there, child)) for _ in range(rounds)]
    wall = statistics.median(ours.wall_s / theirs.wall_s for ours, theirs in pairs)
    cpu = statistics.median(ours.cpu_s / theirs.cpu_s for ours, theirs in pairs)
    best = [len(items) / min(each.wall_s for each in way) for way in zip(*pairs, strict=True)]
    print(
        f"{name:30} in process {best[0]:6.1f}/s   in a child {best[1]:6.1f}/s   ratio {wall:.2f} by the clock,"
        f" {cpu:.2f} by CPU time"
    )


def restart(item: LoadedItem, preparer: Preparer, pool: DecodePool, rounds: int) -> None:
    """From a child's death to the next one's first answer, its item included."""
    took = []
    for _ in range(rounds):
        os.kill(pool.check().result().pid, signal.SIGKILL)
        began = time.perf_counter()
        Preparation(pool).one(item, preparer)
        took.append(time.perf_counter() - began)
    print(f"back after a kill: median {statistics.median(took):.2f} s, at most {max(took):.2f} s of {rounds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="media whose name holds this")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    keep_freed_memory()
    inputs, limits = InputsConfig(), DecodeConfig()
    preparer = Preparer(PromptTokenizer(cached_tokenizer()), inputs)
    contents = {name: items for name, items in media().items() if arguments.only in name}
    with DecodePool(partial(equip_drafter, inputs, limits), limits) as pool:
        began = time.perf_counter()
        pool.check().result()
        print(f"first child after {time.perf_counter() - began:.2f} s")
        for name, items in contents.items():
            compare(name, items, preparer, pool, rounds)
        restart(next(iter(contents.values()))[0], preparer, pool, rounds)


if __name__ == "__main__":
    main()
