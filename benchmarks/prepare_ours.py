"""Our side of `prepare_cpu`: what a preparer does to a block of the work list, and each of its steps alone.

In: cells. Out: a callable a cell that prepares all its items once and returns (bytes handed on, a digest of what must
equal the other side's). Everything a preparation actor runs is in the time, from the work list's rows to packed
windows; only Ray is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.prepare_media import CLIP, Cell, Item
from pipeline import budget
from pipeline.config import FetchConfig, ImageConfig, InputsConfig, RunConfig
from pipeline.decode.fast_resize import resize_fast
from pipeline.decode.image import decode_image, resize_image
from pipeline.decode.resize import resize_frame
from pipeline.decode.video import probe_video, read_frames
from pipeline.errors import RejectError
from pipeline.fetch import Fetcher
from pipeline.heap import keep_freed_memory
from pipeline.manifest.work import from_work_table, to_work_table
from pipeline.policy import FetchPolicy
from pipeline.prepare import Preparer, content_hash
from pipeline.stages.prepare import windows
from pipeline.stages.window_limits import WindowLimits
from pipeline.template import CONTROL_IDS, compose
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, Media, MediaKind, MediaRef, Prepared, WorkItem
from pipeline.visuals import draft_file
from pipeline.window import pack_window, unpack_window

__all__ = ["CLIP_FPS", "CLIP_FRAMES", "Work", "comparable", "our_cells", "our_decoding", "our_stages"]

Work = Callable[[], tuple[int, str]]

CLIP_FPS, CLIP_FRAMES = 1.0, 64  # the official embedder's


def comparable(ids: NDArray[np.integer[Any]]) -> bytes:
    """The ids without the marks around pictures: transformers 5 wraps a video in a pair of its own."""
    kept = ~np.isin(ids, [CONTROL_IDS["<|vision_start|>"], CONTROL_IDS["<|vision_end|>"]])
    return ids[kept].astype("<i8").tobytes()


def our_cells(cells: list[Cell], tokenizer: Path, *, fast: bool) -> dict[str, Work]:
    """A callable a cell; with `fast` under `inputs.image.resize: fast`."""
    keep_freed_memory()
    inputs = InputsConfig(image=ImageConfig(resize="fast" if fast else "exact"))
    preparer = Preparer(PromptTokenizer(tokenizer), inputs)
    made = {cell.name: _stage(cell, preparer) for cell in cells if cell.name != CLIP}
    return made | {cell.name: _clip(cell.items[0].paths[0]) for cell in cells if cell.name == CLIP}


def our_stages(cells: list[Cell], tokenizer: Path) -> dict[str, Work]:
    """A callable a step of preparation, each on one item."""
    by_name = {cell.name: cell.items[0] for cell in cells}
    small, large = (Path(by_name[f"JPEG {size}"].paths[0]) for size in ("1920×1080", "4000×3000"))
    fetcher = Fetcher(_policy(small.parent))
    tokens = PromptTokenizer(tokenizer)
    prepared = Preparer(tokens, InputsConfig()).prepare(LoadedItem("0", (by_name["texts of 80 tokens"].text,), ()))
    row = to_work_table([_work(0, by_name["texts of 80 tokens"])]).select(["id", "fingerprint", "attempts"])
    window, photo = pack_window(row, [prepared], 0.0), large.read_bytes()
    steps: dict[str, Callable[[], object]] = {
        "fetch a local file of 12 MP": lambda: fetcher.fetch(str(large)),
        "SHA-256 of a JPEG of 12 MP": lambda: hashlib.sha256(photo).digest(),
        "pack a window of one text": lambda: pack_window(row, [prepared], 0.0),
        "unpack a window of one text": lambda: unpack_window(window),
        "content hash of a text": lambda: content_hash("text", "instruction", (), (1.0, 64)),
    }
    for name, path in (("1080p", small), ("12 MP", large)):
        data = path.read_bytes()
        pixels = np.asarray(decode_image(data, exif=True))
        height, width = budget.smart_resize(
            *pixels.shape[:2], factor=budget.FACTOR_PX, min_pixels=4 * 1024, max_pixels=1800 * 1024
        )
        steps |= {
            f"decode a JPEG of {name}": lambda data=data: decode_image(data, exif=True),
            f"decode it by Pillow alone ({name})": lambda path=path: np.asarray(Image.open(path).convert("RGB")),
            f"resize {name}, exact": lambda a=(pixels, height, width): resize_image(*a),
            f"resize {name}, fast": lambda a=(pixels, height, width): resize_fast(*a),
            f"resize {name} as a video frame": lambda a=(pixels, 352, 640): resize_frame(*a),
        }
    for count in (80, 500):
        prompt = compose("Represent the user's input.", (), by_name[f"texts of {count} tokens"].text)
        steps[f"tokenise {count} tokens"] = lambda prompt=prompt: tokens.encode(prompt, max_length=8192)
    if CLIP in by_name:
        clip = Path(by_name[CLIP].paths[0]).read_bytes()
        steps["probe a clip of 60 s"] = lambda: probe_video(clip)
    return {name: _silent(step) for name, step in steps.items()}


def _silent(step: Callable[[], object]) -> Work:
    def work() -> tuple[int, str]:
        step()
        return 0, ""

    return work


def _policy(folder: Path) -> FetchPolicy:
    return FetchPolicy.of(FetchConfig(schemes=("file",), local_roots=(str(folder),)))


def _stage(cell: Cell, preparer: Preparer) -> Work:
    paths = [path for item in cell.items for path in item.paths]
    fetcher = Fetcher(_policy(Path(paths[0]).parent if paths else Path()))
    block = to_work_table([_work(number, item) for number, item in enumerate(cell.items)])
    run = RunConfig()

    def work() -> tuple[int, str]:
        loaded = fetcher.load_many(from_work_table(block))
        made = windows(block, _in_process(loaded, preparer), WindowLimits.of(run))
        digest, size = hashlib.sha256(), 0
        for window in made:
            size += window.nbytes
            digest.update(comparable(window.column("input_ids")[0].values.to_numpy()))
        return size, digest.hexdigest()

    return work


def _in_process(
    loaded: Iterator[tuple[WorkItem, LoadedItem | RejectError]], preparer: Preparer
) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
    """Prepared here, where one process's time is measured: `decode_child.py` measures what a child costs."""
    for item, got in loaded:
        try:
            yield item, got if isinstance(got, RejectError) else preparer.prepare(got)
        except RejectError as error:
            yield item, error


def _work(number: int, item: Item) -> WorkItem:
    media: tuple[Media, ...] = ()
    if item.paths:
        kind = MediaKind(item.kind)
        media = (Media(kind, tuple(MediaRef(path, item.kind, n) for n, path in enumerate(item.paths))),)
    texts = (item.text,) if item.text else ()
    return WorkItem(str(number), texts, media, None, None, None, "f", "m", number, 0)


def _clip(path: str) -> Work:
    """The clip at the size that qwen-vl-utils gives files, which is before we shrink it into `max_length`."""

    def work() -> tuple[int, str]:
        data = Path(path).read_bytes()
        frames = draft_file(data, CLIP_FPS, CLIP_FRAMES).read().frames
        return frames.nbytes, hashlib.sha256(frames).hexdigest()

    return work


def our_decoding(path: str) -> Work:
    """The clip's wanted frames at their own size: decoding alone."""

    def work() -> tuple[int, str]:
        data = Path(path).read_bytes()
        probe = probe_video(data)
        wanted = draft_file(data, CLIP_FPS, CLIP_FRAMES).sample.indices
        frames = read_frames(data, probe, wanted, probe.height_px, probe.width_px)
        return frames.nbytes, hashlib.sha256(frames).hexdigest()

    return work
