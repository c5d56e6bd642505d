"""Qwen3-VL as an encoder: the in-tree transformers classes, padded micro-batches, last-token pooling.

In: prepared items. Out: the final-RMSNorm state of each item's last token, float32, not normalised. Refused
(ConfigError): weights that do not fit the architecture, a device or attention that is not there, a model whose
first forward is not finite. Runs with torch ≥ 2.11 and transformers ≥ 5.10.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLModel
from transformers.utils import logging as transformers_logging

from pipeline.checkpoint import Checkpoint
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError, LakevecError
from pipeline.models.batching import auto_token_budget, micro_batches, run_splitting
from pipeline.models.devices import free_bytes, pick_device
from pipeline.models.encoder import Encoded
from pipeline.models.patches import LinearPatchEmbed, patchify
from pipeline.types import MediaKind, Modality, Prepared, Visual

__all__ = ["Qwen3VLEncoder", "load_encoder", "load_stock"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

PROBE_PX = 64
"""Two by two visual tokens: the smallest picture whose rows and columns both matter."""


def load_encoder(checkpoint: Checkpoint, model: ModelConfig, *, device: str = "auto") -> Qwen3VLEncoder:
    """Load `checkpoint` as `model` says onto `device` (`auto`: the first GPU, else the CPU) and probe it once.

    Raises ConfigError if the weights do not fit, the device or attention is missing, or the probe fails.
    """
    target = pick_device(device)
    stock = load_stock(checkpoint, model)
    stock.visual.patch_embed = LinearPatchEmbed(stock.visual.patch_embed.proj)
    try:
        stock = stock.to(target)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"the weights of {checkpoint.folder} do not fit into {target}; use a larger GPU or the smaller model"
        ) from None
    encoder = Qwen3VLEncoder(stock, model)
    encoder.check_contract()
    return encoder


def load_stock(checkpoint: Checkpoint, model: ModelConfig) -> Qwen3VLModel:
    """The transformers model with `checkpoint`'s weights on the CPU, in eval mode, exactly as the library makes it.

    Raises ConfigError if a weight is missing or has another shape, or the attention is not installed.
    """
    attention = "sdpa" if model.attention == "auto" else model.attention
    if attention == "flash_attention_2" and model.dtype == "float32":
        raise ConfigError("model.attention flash_attention_2 computes in 16 bits only; set model.dtype: bfloat16")
    transformers_logging.disable_progress_bar()
    try:
        stock, info = Qwen3VLModel.from_pretrained(
            checkpoint.folder,
            dtype=_DTYPES[model.dtype],
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot load the model in {checkpoint.folder}: {_first_line(error)}") from None
    lost = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if lost:
        raise ConfigError(
            f"the weights in {checkpoint.folder} do not fit the architecture: {len(lost)} tensors are missing or "
            f"have another shape ({', '.join(lost[:3])} …); download the model again"
        )
    return stock.eval().requires_grad_(False)


class Qwen3VLEncoder:
    """A loaded model. Implements `pipeline.models.encoder.Encoder`."""

    def __init__(self, stock: Qwen3VLModel, model: ModelConfig) -> None:
        self._stock = stock
        self._deterministic = model.deterministic
        self._device = next(stock.parameters()).device
        self._dtype = next(stock.parameters()).dtype
        self._name = model.dtype
        self._budget = self._token_budget(model)

    @property
    def hidden_dim(self) -> int:
        """Length of a vector before any MRL cut."""
        return int(self._stock.config.text_config.hidden_size)

    @property
    def device(self) -> str:
        """Where it runs: `cpu`, `cuda:0`."""
        return str(self._device)

    @property
    def dtype(self) -> str:
        """The dtype of weights and activations, as `model.dtype` spells it."""
        return self._name

    @property
    def token_budget(self) -> int:
        """Tokens of one forward, padding included; only an item longer than that passes it, alone."""
        return self._budget

    def encode(self, items: Sequence[Prepared]) -> Encoded:
        """Raw vectors of `items`, float32[n, hidden_dim], in the order given.

        Raises LakevecError if one item alone needs more memory than the device has.
        """
        vectors = np.empty((len(items), self.hidden_dim), np.float32)
        padded_tokens = 0
        batches = micro_batches([item.n_tokens for item in items], self._budget, single=self._deterministic)
        for batch in batches:
            rows = run_splitting([items[index] for index in batch], self._run, torch.OutOfMemoryError, self._release)
            vectors[batch] = torch.cat([vector for vector, _ in rows]).cpu().numpy()
            padded_tokens += sum(padding for _, padding in rows)
        return Encoded(vectors, padded_tokens)

    def check_contract(self) -> None:
        """Run one tiny text and picture. Raises ConfigError unless the result is finite and of `hidden_dim`."""
        vectors = self.encode([_probe(self._stock.config)]).vectors
        if vectors.shape != (1, self.hidden_dim) or not np.isfinite(vectors).all():
            raise ConfigError(
                f"the model's first forward in {self._name} on {self._device} is not finite: the weights are damaged, "
                "or the dtype overflows (try model.dtype: bfloat16)"
            )

    def _token_budget(self, model: ModelConfig) -> int:
        if isinstance(model.token_budget, int):
            return model.token_budget
        return auto_token_budget(
            on_gpu=self._device.type != "cpu",
            free_bytes=free_bytes(self._device),
            hidden_dim=self.hidden_dim,
            element_bytes=self._dtype.itemsize,
        )

    def _run(self, items: Sequence[Prepared]) -> list[tuple[Tensor, int]]:
        lengths = [item.n_tokens for item in items]
        padding = max(lengths) * len(items) - sum(lengths)
        try:
            return [(self._forward(items), padding)]
        except torch.OutOfMemoryError as error:
            if len(items) > 1:
                raise
            raise LakevecError(
                f"{self._device} has too little memory for one item of {lengths[0]} tokens; lower inputs.max_length "
                f"or inputs.image.max_pixels, or use a larger GPU ({_first_line(error)})"
            ) from None

    def _release(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, items: Sequence[Prepared]) -> Tensor:
        """Pooled states, float32[n, hidden_dim] on the device, of items that share one padded forward."""
        lengths = torch.tensor([item.n_tokens for item in items])
        inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in self._texts(items).items()}
        inputs |= self._vision(items)
        states = self._stock(**inputs, use_cache=False, return_dict=True).last_hidden_state
        pooled: Tensor = states[torch.arange(len(items), device=self._device), (lengths - 1).to(self._device)]
        return pooled.float()

    def _texts(self, items: Sequence[Prepared]) -> dict[str, Tensor]:
        config = self._stock.config
        lengths = [item.n_tokens for item in items]
        shape = (len(items), max(lengths))
        ids = np.full(shape, _pad_token(config), np.int64)
        positions = np.zeros((3, *shape), np.int64)
        for row, item in enumerate(items):
            ids[row, : lengths[row]] = item.input_ids
            positions[:, row, : lengths[row]] = item.position_ids
        kinds = (ids == config.image_token_id) * 1 + (ids == config.video_token_id) * 2
        tensors = {"input_ids": ids, "position_ids": positions, "mm_token_type_ids": kinds}
        if min(lengths) < shape[1]:
            # Without padding no mask is passed: attention then takes its causal kernel and never reads a mask.
            tensors["attention_mask"] = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in tensors.items()}

    def _vision(self, items: Sequence[Prepared]) -> dict[str, Tensor]:
        visuals = [visual for item in items for visual in item.visuals]
        images = [visual for visual in visuals if visual.kind is MediaKind.IMAGE]
        videos = [visual for visual in visuals if visual.kind is not MediaKind.IMAGE]
        inputs: dict[str, Tensor] = {}
        if images:
            inputs |= {"pixel_values": self._patches(images), "image_grid_thw": self._grids(images)}
        if videos:
            inputs |= {"pixel_values_videos": self._patches(videos), "video_grid_thw": self._grids(videos)}
        return inputs

    def _patches(self, visuals: Sequence[Visual]) -> Tensor:
        # One buffer, so that all pixels cross to the device in one transfer.
        pixels = np.concatenate([visual.frames.reshape(-1) for visual in visuals])
        on_device = torch.from_numpy(pixels).to(self._device, non_blocking=True)
        return torch.cat([patchify(frames, self._dtype) for frames in _split(on_device, visuals)])

    def _grids(self, visuals: Sequence[Visual]) -> Tensor:
        return torch.tensor([visual.grid_thw for visual in visuals]).to(self._device, non_blocking=True)


def _split(pixels: Tensor, visuals: Sequence[Visual]) -> Iterator[Tensor]:
    start = 0
    for visual in visuals:
        size = visual.frames.size
        yield pixels[start : start + size].view(visual.frames.shape)
        start += size


def _pad_token(config: Any) -> int:  # noqa: ANN401 - a transformers config has no useful type
    # Padding is masked: any id that stands for no picture does.
    return int(config.text_config.bos_token_id or 0)


def _probe(config: Any) -> Prepared:  # noqa: ANN401 - a transformers config has no useful type
    ids = [
        config.vision_start_token_id,
        *[config.image_token_id] * 4,
        config.vision_end_token_id,
        _pad_token(config),
    ]
    positions = [[0, 1, 1, 1, 1, 3, 4], [0, 1, 1, 2, 2, 3, 4], [0, 1, 2, 1, 2, 3, 4]]
    ramp = np.arange(PROBE_PX * PROBE_PX * 3, dtype=np.uint8).reshape(1, PROBE_PX, PROBE_PX, 3)
    return Prepared(
        id="probe",
        input_ids=np.array(ids, np.int32),
        position_ids=np.array(positions, np.int32),
        visuals=(Visual(MediaKind.IMAGE, ramp, (1, 4, 4)),),
        modality=Modality.IMAGE,
        n_visual_tokens=4,
        n_frames=0,
        truncated=False,
        content_hash="",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
