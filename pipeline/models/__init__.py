"""The model layer: the only home of torch and transformers. Its modules are imported lazily, by name."""

from __future__ import annotations

__all__: list[str] = []
