"""The stock transformers path, as independent of ours as it can be: the yardstick of `lakevec parity`.

In: instruction, texts, decoded pictures. Out: token ids and a unit vector, from AutoTokenizer, the model's own chat
template if it has one, the library's image processor, padded batches and the model's own position ids. Two
things follow the model's training rather than the library: pictures are resized within the official pixel limits,
and a video is timestamped frame blocks without an outer wrapper.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil, Qwen3VLModel

from pipeline.checkpoint import Checkpoint
from pipeline.models.batching import micro_batches
from pipeline.models.loading import load_stock

__all__ = ["StockInput", "StockOutput", "stock_outputs"]

PIXELS = {"shortest_edge": 4 * 1024, "longest_edge": 1800 * 1024}
FRAME_LIST_FPS = 2.0
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
MERGED = 4
"""Patches of one visual token. Stated here once more on purpose: a yardstick must not move with what it measures."""

BATCH_TOKENS = 1024
"""Padded size of a batch: the short samples share some, so that padding is compared too."""


@dataclass(frozen=True, slots=True)
class StockInput:
    """An item: pictures are uint8[height_px, width_px, 3]; `frames` are one video, of sizes that need no resize."""

    instruction: str | None
    texts: tuple[str, ...]
    images: tuple[NDArray[np.uint8], ...]
    frames: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True)
class StockOutput:
    """`input_ids` int64[n] without padding, `vector` float32[hidden_dim] of unit length.

    `sizes_agree`: whether qwen-vl-utils would give the images the same sizes; True where it is not installed.
    """

    input_ids: NDArray[np.int64]
    vector: NDArray[np.float32]
    sizes_agree: bool


@dataclass(frozen=True, slots=True)
class _Pictures:
    patches: Tensor
    grids: Tensor


@dataclass(frozen=True, slots=True)
class _Made:
    prompt: str
    images: _Pictures | None
    video: _Pictures | None


def stock_outputs(checkpoint: Checkpoint, inputs: Sequence[StockInput]) -> list[StockOutput]:
    """What the stock path makes of `inputs`, computed in float32 on the CPU, short ones in padded batches."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    model = load_stock(checkpoint, "float32")
    made = [_made(tokenizer, one) for one in inputs]
    outputs: dict[int, StockOutput] = {}
    for batch in micro_batches([len(tokenizer(one.prompt).input_ids) for one in made], BATCH_TOKENS):
        vectors = _vectors(tokenizer, model, [made[index] for index in batch])
        for index, (ids, vector) in zip(batch, vectors, strict=True):
            agree = _sizes_agree(inputs[index].images, made[index].images)
            outputs[index] = StockOutput(ids, vector, agree)
    return [outputs[index] for index in range(len(inputs))]


def _made(tokenizer: PreTrainedTokenizerBase, one: StockInput) -> _Made:
    images, video = _images(one.images), _video(one.frames)
    return _Made(_expanded(_rendered(tokenizer, one), images, video), images, video)


@torch.inference_mode()
def _vectors(
    tokenizer: PreTrainedTokenizerBase, model: Qwen3VLModel, made: Sequence[_Made]
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    batch = tokenizer([one.prompt for one in made], padding=True, padding_side="right", return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
    images = _joined([one.images for one in made], "pixel_values", "image_grid_thw")
    videos = _joined([one.video for one in made], "pixel_values_videos", "video_grid_thw")
    out = model(input_ids=ids, attention_mask=mask, mm_token_type_ids=kinds, **images, **videos)
    lengths = mask.sum(1).tolist()
    pooled = [out.last_hidden_state[row, length - 1] for row, length in enumerate(lengths)]
    return [
        (ids[row, :length].numpy(), torch.nn.functional.normalize(pooled[row], dim=0).numpy())
        for row, length in enumerate(lengths)
    ]


def _joined(pictures: Sequence[_Pictures | None], values: str, grids: str) -> dict[str, Tensor]:
    found = [one for one in pictures if one is not None]
    if not found:
        return {}
    return {values: torch.cat([one.patches for one in found]), grids: torch.cat([one.grids for one in found])}


def _processor(*, resize: bool) -> Qwen2VLImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    return Qwen2VLImageProcessorPil(
        patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=half, image_std=half, size=PIXELS,
        do_resize=resize,
    )  # fmt: skip


def _images(images: Sequence[NDArray[np.uint8]]) -> _Pictures | None:
    if not images:
        return None
    made = _processor(resize=True)(images=list(images), input_data_format="channels_last", return_tensors="pt")
    return _Pictures(made["pixel_values"], made["image_grid_thw"])


def _video(frames: Sequence[NDArray[np.uint8]]) -> _Pictures | None:
    if not frames:
        return None
    padded = [*frames, frames[-1]] if len(frames) % 2 else list(frames)
    made = _processor(resize=False)(images=padded, input_data_format="channels_last", return_tensors="pt")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    # The processor doubles each frame in time; a video's patch has two successive frames there instead.
    single = made["pixel_values"].view(len(padded) // 2, 2, rows * columns, 3, 2, 256)[..., 0, :]
    pairs = single.permute(0, 2, 3, 1, 4).reshape(-1, 3 * 2 * 256)
    return _Pictures(pairs, torch.tensor([[len(padded) // 2, rows, columns]]))


def _rendered(tokenizer: PreTrainedTokenizerBase, one: StockInput) -> str:
    instruction = _instruction(one.instruction)
    video = [VIDEO_PAD] if one.frames else []
    text = "".join(one.texts) if one.texts or one.images or one.frames else "NULL"
    if tokenizer.chat_template is None:
        content = "".join(VISION_START + pad + VISION_END for pad in [*video, *[IMAGE_PAD] * len(one.images)]) + text
        return (
            f"<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
    parts = [{"type": "video"} for _ in video] + [{"type": "image"} for _ in one.images]
    messages = [
        {"role": "system", "content": [{"type": "text", "text": instruction}]},
        {"role": "user", "content": [*parts, {"type": "text", "text": text}]},
    ]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _instruction(given: str | None) -> str:
    stripped = (given or "").strip()
    if not stripped:
        return "Represent the user's input."
    return stripped if unicodedata.category(stripped[-1]).startswith("P") else stripped + "."


def _expanded(prompt: str, images: _Pictures | None, video: _Pictures | None) -> str:
    counts = [] if images is None else (images.grids.prod(1) // MERGED).tolist()
    head, *rest = prompt.split(IMAGE_PAD)
    prompt = head + "".join(IMAGE_PAD * n + part for n, part in zip(counts, rest, strict=True))
    if video is None:
        return prompt
    blocks, rows, columns = video.grids[0].tolist()
    times = [(2 * block + 0.5) / FRAME_LIST_FPS for block in range(blocks)]
    pads = VISION_START + VIDEO_PAD * (rows * columns // MERGED) + VISION_END
    return prompt.replace(VISION_START + VIDEO_PAD + VISION_END, "".join(f"<{t:.1f} seconds>{pads}" for t in times))


def _sizes_agree(images: Sequence[NDArray[np.uint8]], pictures: _Pictures | None) -> bool:
    try:
        from qwen_vl_utils.vision_process import smart_resize
    except (ImportError, RuntimeError, OSError):
        # Not installed, or its torchvision cannot load: it is an extra witness, not a part.
        return True
    if pictures is None:
        return True
    low, high = PIXELS["shortest_edge"], PIXELS["longest_edge"]
    expected = [smart_resize(*one.shape[:2], factor=32, min_pixels=low, max_pixels=high) for one in images]
    return [(rows * 16, columns * 16) for _, rows, columns in pictures.grids.tolist()] == [
        tuple(size) for size in expected
    ]
