"""The library's front door: official dictionaries in, unit vectors out, with the corpus's own preprocessing.

    with Embedder("Qwen/Qwen3-VL-Embedding-2B", dim=1024) as embedder:
        vectors = embedder.embed([{"text": "a red bicycle", "instruction": "Find the photo."}])

Preparation runs in processes of its own; this one loads the model. Refused: malformed dictionaries (ConfigError), and
items that cannot be fetched, decoded or encoded (`EmbedError`, naming each by its index; none is dropped silently).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import FetchConfig, InputsConfig, ModelConfig, VectorSpec
from pipeline.errors import NON_FINITE_DETAIL, ConfigError, LakevecError, RejectCode, scrub
from pipeline.models.encoder import Encoder
from pipeline.official import OfficialItem, parse_item
from pipeline.policy import FetchPolicy
from pipeline.prepare_pool import PreparePool, PrepareSettings
from pipeline.quantize import check_specs, quantize
from pipeline.types import Prepared, Reject

__all__ = ["EmbedError", "Embedder"]

SLAB_ITEMS = 64
"""Items prepared before they are encoded: at most 340 MiB of the largest images, and many forwards' worth."""

NAMED_FAILURES = 5
"""So many failures are spelt out in the message; `EmbedError.failures` has them all."""


class EmbedError(LakevecError):
    """Some items got no vector. `failures` maps the index of each to its `Reject` (code and detail)."""

    def __init__(self, failures: Mapping[int, Reject], n_items: int) -> None:
        self.failures = dict(failures)
        named = [f"items[{index}]: {_why(reject)}" for index, reject in self.failures.items()]
        more = f"; and {len(named) - NAMED_FAILURES} more" if len(named) > NAMED_FAILURES else ""
        super().__init__(f"{len(named)} of {n_items} items got no vector: {'; '.join(named[:NAMED_FAILURES])}{more}")


class Embedder:
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
        processes: int = 1,
    ) -> None:
        """Load `model` (a folder, a Hugging Face id or `modelscope:<id>`).

        `dim`: MRL dim, None for the model's own. `instruction` is for items without one, over `inputs.instruction`.
        `fetch`: what may be read; by default any local path and S3, for here the caller names the files.
        `processes`: how many prepare. Raises ConfigError.
        """
        config = _model_config(model, revision, dtype)
        checkpoint = resolve_checkpoint(config)
        self._spec = VectorSpec(dim=dim, dtype="float32")
        check_specs([self._spec], checkpoint.hidden_dim)
        settings = PrepareSettings(checkpoint.folder, _inputs(inputs, instruction), _policy(fetch))
        self._closed = False
        self._pool = PreparePool(settings, processes)
        try:
            # The other process reads its tokenizer while this one reads the weights.
            checked = self._pool.check()
            self._encoder = _load(checkpoint, config, device)
            checked.result()
        except BaseException:
            self._pool.close()
            raise

    @property
    def dim(self) -> int:
        """Length of the vectors that `embed` returns."""
        return self._spec.dim or self._encoder.hidden_dim

    @property
    def device(self) -> str:
        """Where the model runs: `cpu`, `cuda:0`."""
        return self._encoder.device

    def embed(self, items: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Unit vectors of `items` (see `pipeline.official`), float32[n, dim], in order.

        Raises ConfigError for a malformed dictionary, and EmbedError if any item got no vector.
        """
        if self._closed:
            raise ConfigError("this Embedder is closed; make a new one")
        requests = [parse_item(item, index) for index, item in enumerate(items)]
        vectors = np.empty((len(requests), self.dim), np.float32)
        failures: dict[int, Reject] = {}
        for start in range(0, len(requests), SLAB_ITEMS):
            self._embed_slab(requests[start : start + SLAB_ITEMS], start, vectors, failures)
        if failures:
            raise EmbedError(failures, len(requests))
        return vectors

    def close(self) -> None:
        """Stop the preparing processes; after that `embed` is refused."""
        self._closed = True
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _embed_slab(
        self, slab: Sequence[OfficialItem], start: int, vectors: NDArray[np.float32], failures: dict[int, Reject]
    ) -> None:
        results = self._pool.prepare(slab)
        for index, one in enumerate(results, start):
            if isinstance(one, Reject):
                failures[index] = replace(one, id=str(index))
        if failures:
            # The call is going to fail: what is still worth doing is finding every item that cannot be prepared.
            return
        encoded = self._encoder.encode([one for one in results if isinstance(one, Prepared)])
        unit = quantize(encoded.vectors, [self._spec])
        vectors[start : start + len(slab)] = unit.columns[self._spec.name]
        for index in (start + np.flatnonzero(~unit.ok)).tolist():
            failures[index] = _failed(index, dict(encoded.too_large).get(index - start))


def _failed(index: int, too_large: str | None) -> Reject:
    if too_large is not None:
        return Reject(str(index), RejectCode.GPU_OOM, scrub(too_large))
    return Reject(str(index), RejectCode.NON_FINITE, NON_FINITE_DETAIL)


def _model_config(model: str, revision: str | None, dtype: str) -> ModelConfig:
    try:
        return ModelConfig.model_validate({"path": model, "revision": revision, "dtype": dtype})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})") from None


def _inputs(inputs: InputsConfig | None, instruction: str | None) -> InputsConfig:
    settled = inputs or InputsConfig()
    return settled if instruction is None else settled.model_copy(update={"instruction": instruction})


def _policy(fetch: FetchConfig | None) -> FetchPolicy:
    # A caller names each file, unlike a manifest that came from somewhere: the whole disk stands in for its folder.
    return FetchPolicy.of(fetch or FetchConfig(), "/")


def _load(checkpoint: Checkpoint, config: ModelConfig, device: str) -> Encoder:
    # torch must not load with this module: the preparing processes import it by name.
    from pipeline.models.qwen3_vl import load_encoder

    return load_encoder(checkpoint, config, device=device)


def _why(reject: Reject) -> str:
    return f"{reject.code} ({reject.detail})" if reject.detail else str(reject.code)
