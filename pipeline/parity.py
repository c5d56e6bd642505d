"""Parity: our path against the stock transformers path on built-in samples, in float32 on the CPU.

In: a model. Out: one `ParityRow` a sample. Refused (ConfigError): what `resolve_checkpoint`, the tokenizer and
`load_encoder` refuse. Needs no media and no network beyond the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import FetchConfig, InputsConfig, ModelConfig
from pipeline.errors import LakevecError
from pipeline.parity_samples import FRAME_PX, SAMPLES, Sample, as_item, picture
from pipeline.policy import FetchPolicy
from pipeline.prepare_pool import ITEM, PreparePool, embed_makers
from pipeline.types import Prepared, Reject

__all__ = ["TOLERANCE", "ParityRow", "run_parity"]

TOLERANCE = 1e-5
"""Largest difference of a unit vector's value in float32; kernels and batch shapes alone make about 5e-7."""


@dataclass(frozen=True, slots=True)
class ParityRow:
    """How one sample compares: token ids and image sizes equal, largest difference and cosine of unit vectors."""

    sample: str
    ids_equal: bool
    max_abs: float
    cosine: float

    @property
    def ok(self) -> bool:
        """Whether the two paths agree."""
        return self.ids_equal and self.max_abs <= TOLERANCE


def run_parity(model_path: str, *, revision: str | None = None) -> list[ParityRow]:
    """Run every sample through both paths. The model is in memory once at a time, in float32."""
    from pipeline.models.stock import StockInput, stock_outputs

    config = ModelConfig(path=model_path, revision=revision, dtype="float32", attention="sdpa")
    checkpoint = resolve_checkpoint(config)
    prepared = _prepared(checkpoint)
    inputs = [StockInput(one.instruction, one.texts, _images(one), _frames(one)) for one in SAMPLES]
    stock = stock_outputs(checkpoint, inputs)
    ours = _our_vectors(checkpoint, config, prepared)
    return [
        _row(
            sample.name, np.array_equal(item.input_ids, theirs.input_ids) and theirs.sizes_agree, vector, theirs.vector
        )
        for sample, item, vector, theirs in zip(SAMPLES, prepared, ours, stock, strict=True)
    ]


def _prepared(checkpoint: Checkpoint) -> list[Prepared]:
    inputs = InputsConfig()
    make = partial(embed_makers, checkpoint.folder, inputs)
    pool = PreparePool(make, inputs, FetchPolicy.of(FetchConfig()))
    try:
        pool.check().result()
        results = pool.prepare([(ITEM, as_item(sample)) for sample in SAMPLES])
    finally:
        pool.close()
    rejects = [f"{SAMPLES[int(one.id)].name}: {one.code} {one.detail}" for one in results if isinstance(one, Reject)]
    if rejects:
        raise LakevecError(f"built-in samples could not be prepared: {'; '.join(rejects)}. This is a bug")
    return [one for one in results if isinstance(one, Prepared)]


def _our_vectors(checkpoint: Checkpoint, config: ModelConfig, items: list[Prepared]) -> NDArray[np.float32]:
    from pipeline.models.qwen3_vl import load_encoder

    vectors = load_encoder(checkpoint, config, device="cpu").encode(items).vectors
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def _images(sample: Sample) -> tuple[NDArray[np.uint8], ...]:
    return tuple(picture(*size, seed) for seed, size in enumerate(sample.images))


def _frames(sample: Sample) -> tuple[NDArray[np.uint8], ...]:
    return tuple(picture(*FRAME_PX, seed) for seed in range(sample.frames))


def _row(name: str, equal: bool, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> ParityRow:
    difference = float(np.abs(ours - theirs).max())
    return ParityRow(name, bool(equal), difference, float(ours.astype(np.float64) @ theirs.astype(np.float64)))
