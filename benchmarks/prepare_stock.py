"""The other side of `prepare_cpu`: transformers' processor behind qwen-vl-utils, as the official embedder calls them.

In: cells. Out: a callable a cell that prepares all its items once and returns (bytes handed on, a digest of what must
equal ours). Runs in a process of its own, which loads torchvision from `.oracle/` (installed there on first use).

To its favour: the prompt is written out instead of rendered by Jinja, texts come in batches of 16 and pictures one at
a time (stacked ones are slower), and no time is charged for what its caller does.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from benchmarks.prepare_media import CLIP, Cell, Item
from benchmarks.prepare_ours import CLIP_FPS, CLIP_FRAMES, Work, comparable
from tests.fixtures.oracle import oracle_folder

__all__ = ["decord_decoding", "stock_cells"]

TEXT_BATCH = 16  # the official embedder's example
MAX_LENGTH = 8192
MIN_PIXELS, MAX_PIXELS = 4 * 1024, 1800 * 1024
TOTAL_PIXELS = 10 * 768 * 1024
CALL = {"truncation": True, "max_length": MAX_LENGTH, "padding": True, "do_resize": False, "return_tensors": "pt"}


def stock_cells(cells: list[Cell], tokenizer: Path) -> dict[str, Work]:
    """A callable a cell; the clip is fetched and resized by qwen-vl-utils alone, as its tokens pass `MAX_LENGTH`."""
    stock = _Stock(tokenizer)
    works: dict[str, Work] = {}
    for cell in cells:
        if cell.name == CLIP:
            works[cell.name] = stock.clip(cell.items[0].paths[0])
        else:
            works[cell.name] = stock.cell(cell)
    return works


def decord_decoding(path: str) -> Work:
    """The clip's wanted frames at their own size by decord, by the one thread that the benchmark allows."""
    _oracle("decord", "decord==0.6.0")
    import decord
    import numpy as np

    def work() -> tuple[int, str]:
        reader = decord.VideoReader(path, num_threads=1)
        wanted = np.linspace(0, len(reader) - 1, 60).round().astype(int).tolist()
        frames = reader.get_batch(wanted).asnumpy()
        return frames.nbytes, hashlib.sha256(frames).hexdigest()

    return work


def _oracle(package: str, requirement: str) -> None:
    folder = str(oracle_folder(package, requirement))
    if folder not in sys.path:
        sys.path.append(folder)


class _Stock:
    def __init__(self, tokenizer: Path) -> None:
        _oracle("torchvision", "torchvision==0.28.0")
        _oracle("qwen_vl_utils", "qwen-vl-utils==0.0.14")
        _oracle("decord", "decord==0.6.0")
        import torch

        torch.set_num_threads(1)
        # Its wheel is built for CUDA: these two operators would come from the library that cannot load here.
        self._library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            self._library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from qwen_vl_utils import process_vision_info, vision_process
        from transformers import AutoTokenizer, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

        self._process: Any = process_vision_info
        self._fetch_video: Any = vision_process.fetch_video
        patches = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
        half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        size = {"size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}}
        self._processor: Any = Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(**patches, **half, **size),
            tokenizer=AutoTokenizer.from_pretrained(tokenizer),
            video_processor=Qwen3VLVideoProcessor(**patches, **half),
        )

    def cell(self, cell: Cell) -> Work:
        size = TEXT_BATCH if cell.items[0].kind == "text" else 1
        batches = [cell.items[start : start + size] for start in range(0, len(cell.items), size)]

        def work() -> tuple[int, str]:
            digest, total = hashlib.sha256(), 0
            for batch in batches:
                made = self._batch(batch)
                total += sum(value.nbytes for value in made.values() if hasattr(value, "nbytes"))
                for ids, mask in zip(made["input_ids"], made["attention_mask"], strict=True):
                    digest.update(comparable(ids[mask.bool()].numpy()))
            return total, digest.hexdigest()

        return work

    def clip(self, path: str) -> Work:
        def work() -> tuple[int, str]:
            element = {"type": "video", "video": path, "fps": CLIP_FPS, "max_frames": CLIP_FRAMES}
            frames = self._fetch_video(element, image_patch_size=16)
            pixels = frames.byte().permute(0, 2, 3, 1).contiguous().numpy()
            return frames.nbytes, hashlib.sha256(pixels).hexdigest()

        return work

    def _batch(self, items: tuple[Item, ...]) -> Any:  # noqa: ANN401 - transformers' own mapping
        messages = [[{"role": "user", "content": _content(item)}] for item in items]
        images, videos, options = self._process(
            messages, image_patch_size=16, return_video_kwargs=True, return_video_metadata=True
        )
        frames, metadata = map(list, zip(*videos, strict=True)) if videos else (None, None)
        prompts = [_prompt(item) for item in items]
        return self._processor(
            text=prompts, images=images, videos=frames, video_metadata=metadata, **options, **CALL
        )  # fmt: skip


def _content(item: Item) -> list[dict[str, Any]]:
    if item.kind == "image":
        return [{"type": "image", "image": item.paths[0], "min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS}]
    if item.kind == "frames":
        return [{"type": "video", "video": list(item.paths), "total_pixels": TOTAL_PIXELS}]
    return [{"type": "text", "text": item.text}]


def _prompt(item: Item) -> str:
    pads = {"image": "<|image_pad|>", "frames": "<|video_pad|>"}
    content = f"<|vision_start|>{pads[item.kind]}<|vision_end|>" if item.kind in pads else item.text
    return (
        "<|im_start|>system\nRepresent the user's input.<|im_end|>\n"
        f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    )
