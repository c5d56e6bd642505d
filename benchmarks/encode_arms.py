"""The contestants: ours, the stock model in padded batches, and sentence-transformers; same weights, same items.

Each takes prepared items and returns their vectors, float32[n, hidden_dim], in the order given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3VLModel

from pipeline.models.patches import patchify
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.types import MediaKind, Prepared

__all__ = ["Arm", "Ours", "SentenceTransformers", "Stock", "Vectors"]

Vectors = NDArray[np.float32]

WINDOW_TOKENS, WINDOW_BYTES = 131_072, 64 << 20
"""What closes a window in a job."""


class Arm(Protocol):
    """A contestant."""

    name: str

    def run(self, items: Sequence[Prepared]) -> Vectors: ...


class Ours:
    """The packed encoder, two windows in flight as in a job."""

    def __init__(self, encoder: Qwen3VLEncoder, name: str = "ours") -> None:
        self.name = name
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(2 if encoder.device.startswith("cuda") else 1)

    def run(self, items: Sequence[Prepared]) -> Vectors:
        parts = list(self._threads.map(self._encoder.encode, _windows(items)))
        assert all(part.padded_tokens == 0 and not part.too_large for part in parts)
        return np.concatenate([part.vectors for part in parts])

    def saved_tokens(self, items: Sequence[Prepared]) -> int:
        """Tokens of `items` that `run` does not compute, since others begin with them too."""
        return sum(self._encoder.parts(window).saved_tokens for window in _windows(items))


class Stock:
    """The stock model in padded batches of `batch`. `tuned`: sorted by length, no cache, inputs made ahead."""

    def __init__(self, model: Qwen3VLModel, batch: int, *, tuned: bool = False) -> None:
        self.name = f"stock {'tuned' if tuned else 'padded'} {batch}"
        self._model = model
        self._batch = batch
        self._tuned = tuned

    def run(self, items: Sequence[Prepared]) -> Vectors:
        order = list(range(len(items)))
        if self._tuned:
            order.sort(key=lambda index: -items[index].n_tokens)
        batches = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        vectors = np.empty((len(items), self._model.config.text_config.hidden_size), np.float32)
        for batch, inputs in zip(batches, self._inputs(items, batches), strict=True):
            vectors[batch] = pooled(self._model, inputs, use_cache=not self._tuned).float().cpu().numpy()
        return vectors

    def _inputs(self, items: Sequence[Prepared], batches: list[list[int]]) -> Iterator[dict[str, Tensor]]:
        made = (stock_inputs([items[index] for index in batch], self._model) for batch in batches)
        return made_ahead(made) if self._tuned else made


class SentenceTransformers:
    """`SentenceTransformer.encode` around the stock model: it sorts by length itself, as far as it is told lengths.

    An item travels as a string of as many characters as it has tokens, so that its sort is exact.
    """

    def __init__(self, model: Qwen3VLModel, batch: int) -> None:
        from sentence_transformers import SentenceTransformer

        self.name = f"sentence-transformers {batch}"
        self._batch = batch
        self._module = _input_module(model)
        self._transformer = SentenceTransformer(modules=[self._module], device=str(model.device))

    def run(self, items: Sequence[Prepared]) -> Vectors:
        self._module.items = items
        texts = [str(index).ljust(item.n_tokens) for index, item in enumerate(items)]
        vectors: Vectors = self._transformer.encode(texts, batch_size=self._batch, show_progress_bar=False)
        return vectors


def _input_module(model: Qwen3VLModel) -> Any:  # noqa: ANN401 - a class of an optional library
    from sentence_transformers.base.modules import InputModule

    class Prompts(InputModule):  # type: ignore[misc]
        items: Sequence[Prepared] = ()

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def preprocess(self, inputs: list[str], prompt: str | None = None, **options: object) -> dict[str, Tensor]:
            return stock_inputs([self.items[int(text)] for text in inputs], model)

        def forward(self, features: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
            return {"sentence_embedding": pooled(self.model, features, use_cache=True).float()}

        def save(self, *args: object, **options: object) -> None:
            raise NotImplementedError("a benchmark saves nothing")

    return Prompts()


def made_ahead(inputs: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """`inputs`, each made by another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, inputs, None)
        while (made := upcoming.result()) is not None:
            upcoming = thread.submit(next, inputs, None)
            yield made


@torch.inference_mode()
def pooled(model: Qwen3VLModel, inputs: dict[str, Tensor], *, use_cache: bool) -> Tensor:
    """The last real token's state of each row of padded `inputs`."""
    inputs = {name: tensor.to(model.device, non_blocking=True) for name, tensor in inputs.items()}
    states = model(**inputs, use_cache=use_cache).last_hidden_state
    last = inputs["attention_mask"].sum(1) - 1
    return states[torch.arange(len(last), device=last.device), last]


def stock_inputs(items: Sequence[Prepared], model: Qwen3VLModel) -> dict[str, Tensor]:
    """The stock forward's arguments: ids padded on the right, float32 patches as its processor hands them on."""
    longest = max(item.n_tokens for item in items)
    ids = torch.full((len(items), longest), 151643)
    mask = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : item.n_tokens] = torch.from_numpy(item.input_ids)
        mask[row, : item.n_tokens] = 1
    kinds = (ids == model.config.image_token_id).int() + 2 * (ids == model.config.video_token_id).int()
    inputs = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": kinds}
    visuals = [one for item in items for one in item.visuals]
    for name, grid, of_images in (
        ("pixel_values", "image_grid_thw", True),
        ("pixel_values_videos", "video_grid_thw", False),
    ):
        chosen = [one for one in visuals if (one.kind is MediaKind.IMAGE) == of_images]
        if chosen:
            inputs[name] = torch.cat([patchify(torch.from_numpy(one.frames)) for one in chosen])
            inputs[grid] = torch.tensor([one.grid_thw for one in chosen])
    return inputs


def _windows(items: Sequence[Prepared]) -> list[list[Prepared]]:
    windows: list[list[Prepared]] = [[]]
    tokens = size = 0
    for item in items:
        bytes_of = sum(one.frames.nbytes for one in item.visuals)
        if windows[-1] and (tokens + item.n_tokens > WINDOW_TOKENS or size + bytes_of > WINDOW_BYTES):
            windows.append([])
            tokens = size = 0
        windows[-1].append(item)
        tokens, size = tokens + item.n_tokens, size + bytes_of
    return windows
