"""lakevec: turns media lakes into vectors with Qwen3-VL-Embedding on Ray Data."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.embedder import Embedder
    from pipeline.reranker import Reranker

__all__ = ["Embedder", "Reranker", "__version__"]
__version__ = "0.1.0"

_HOMES = {"Embedder": "pipeline.embedder", "Reranker": "pipeline.reranker"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have no common type
    """Import a class on first use: it loads torch, which no decoding process may."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
