"""Provenance: the versions and settings that a vectors file, a snapshot and a summary name."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from pipeline.config import Config
from pipeline.quantize import formula
from pipeline.rerank.config import RerankConfig
from pipeline.rerank.template import RERANK_TEMPLATE_VERSION
from pipeline.template import TEMPLATE_VERSION

__all__ = ["library_versions", "score_metadata", "table_metadata"]

LIBRARIES = ("lakevec", "ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "pillow", "av", "duckdb")


def library_versions(libraries: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of `libraries`: those that decide a vector; one that is not there is left out."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def table_metadata(
    config: Config, identity: str, compute_fingerprint: str, hidden_dim: int, run_id: str
) -> dict[str, str]:
    """The Parquet key-value metadata of the vectors and rejects tables, every key under `lakevec.`."""
    vectors = [
        {"name": spec.name, "dim": spec.dim or hidden_dim, "dtype": spec.dtype, "formula": formula(spec)}
        for spec in config.output.vectors
    ]
    facts: dict[str, object] = {
        "model": config.model.path,
        "revision": config.model.revision,
        "model_identity": identity,
        "model_dtype": config.model.dtype,
        "vectors": vectors,
        "template_version": TEMPLATE_VERSION,
        "instruction": config.inputs.instruction,
        "compute_fingerprint": compute_fingerprint,
        "versions": library_versions(),
        "run_id": run_id,
    }
    return _metadata(facts)


def score_metadata(config: RerankConfig, identity: str, compute_fingerprint: str, run_id: str) -> dict[str, str]:
    """The Parquet key-value metadata of the score table, every key under `lakevec.`."""
    return _metadata(
        {
            "model": config.model.path,
            "revision": config.model.revision,
            "model_identity": identity,
            "model_dtype": config.model.dtype,
            "template_version": RERANK_TEMPLATE_VERSION,
            "instruction": config.inputs.instruction,
            "compute_fingerprint": compute_fingerprint,
            "versions": library_versions(),
            "run_id": run_id,
        }
    )


def _metadata(facts: dict[str, object]) -> dict[str, str]:
    return {
        f"lakevec.{key}": value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in facts.items()
    }
