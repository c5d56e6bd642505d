"""The library's front door: official dictionaries in, unit vectors out, with the corpus's own preprocessing.

    with Embedder("Qwen/Qwen3-VL-Embedding-2B", dim=1024) as embedder:
        vectors = embedder.embed([{"text": "a red bicycle", "instruction": "Find the photo."}])

Media are decoded in processes of their own; this one loads the model. Refused: malformed dictionaries
(ConfigError), and items that cannot be fetched, decoded or encoded (`EmbedError`, naming each by its index; none is
dropped silently).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import DecodeConfig, FetchConfig, InputsConfig, ModelConfig, VectorSpec
from pipeline.errors import NON_FINITE_DETAIL, LakevecError
from pipeline.front_door import (
    SLAB_ITEMS,
    FrontDoor,
    caller_policy,
    encoding_failure,
    name_failures,
    named_model,
    with_instruction,
)
from pipeline.models.encoder import Encoder
from pipeline.official import OfficialItem, parse_item
from pipeline.prepare_pool import ITEM, PreparePool, embed_makers
from pipeline.quantize import check_specs, quantize
from pipeline.types import Prepared, Reject

__all__ = ["EmbedError", "Embedder"]


class EmbedError(LakevecError):
    """Some items got no vector. `failures` maps the index of each to its `Reject` (code and detail)."""

    def __init__(self, failures: Mapping[int, Reject], n_items: int) -> None:
        self.failures = dict(failures)
        named = name_failures({f"items[{index}]": reject for index, reject in self.failures.items()})
        super().__init__(f"{len(self.failures)} of {n_items} items got no vector: {named}")


class Embedder(FrontDoor[Prepared, Encoder]):
    """A model ready to embed official dictionaries. Use it as a context manager, or `close` it."""

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        dtype: str = "bfloat16",
        dim: int | None = None,
        instruction: str | None = None,
        device: str = "auto",
        inputs: InputsConfig | None = None,
        fetch: FetchConfig | None = None,
        decode: DecodeConfig | None = None,
        processes: int = 1,
    ) -> None:
        """Load `model` (a folder, a Hugging Face id or `modelscope:<id>`).

        `dim`: MRL dim, None for the model's own. `instruction` is for items without one, over `inputs.instruction`.
        `fetch`: what may be read; by default any local path and S3, for here the caller names the files.
        `decode`: what an item's media may cost. `processes`: how many decode. Raises ConfigError.
        """
        config = named_model(model, revision, dtype)
        checkpoint = resolve_checkpoint(config)
        self._spec = VectorSpec(dim=dim, dtype="float32")
        check_specs([self._spec], checkpoint.hidden_dim)
        settled = with_instruction(inputs or InputsConfig(), instruction)
        make = partial(embed_makers, checkpoint.folder, settled)
        pool = PreparePool(make, settled, caller_policy(fetch), limits=decode, processes=processes)
        super().__init__(pool, partial(_load, checkpoint, config, device))

    @property
    def dim(self) -> int:
        """Length of the vectors that `embed` returns."""
        return self._spec.dim or self._model.hidden_dim

    def embed(self, items: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Unit vectors of `items` (see `pipeline.official`), float32[n, dim], in order.

        Raises ConfigError for a malformed dictionary, and EmbedError if any item got no vector.
        """
        self._refuse_closed()
        requests = [parse_item(item, index) for index, item in enumerate(items)]
        vectors = np.empty((len(requests), self.dim), np.float32)
        failures: dict[int, Reject] = {}
        for start in range(0, len(requests), SLAB_ITEMS):
            self._embed_slab(requests[start : start + SLAB_ITEMS], start, vectors, failures)
        if failures:
            raise EmbedError(failures, len(requests))
        return vectors

    def _embed_slab(
        self, slab: Sequence[OfficialItem], start: int, vectors: NDArray[np.float32], failures: dict[int, Reject]
    ) -> None:
        results = self._pool.prepare([(ITEM, one) for one in slab])
        for index, one in enumerate(results, start):
            if isinstance(one, Reject):
                failures[index] = replace(one, id=str(index))
        if failures:
            # The call is going to fail: what is still worth doing is finding every item that cannot be prepared.
            return
        encoded = self._model.encode([one for one in results if isinstance(one, Prepared)])
        unit = quantize(encoded.vectors, [self._spec])
        vectors[start : start + len(slab)] = unit.columns[self._spec.name]
        for index in (start + np.flatnonzero(~unit.ok)).tolist():
            failures[index] = encoding_failure(str(index), encoded.problems.get(index - start), NON_FINITE_DETAIL)


def _load(checkpoint: Checkpoint, config: ModelConfig, device: str) -> Encoder:
    # Only who makes an Embedder waits for torch, not who imports this module.
    from pipeline.models.qwen3_vl import load_encoder

    return load_encoder(checkpoint, config, device=device)
