"""The official dictionary of Qwen3-VL-Reranker, as `Reranker.score` takes it.

In: `{"query": …, "documents": […], "instruction": …, "fps": …, "max_frames": …}`, the last three optional. A query or a
document is a dictionary as `Embedder.embed` takes it; a query may also be the tuple (instruction, text), as may its
`text`. Out: an `OfficialRequest`, cheap to send to another process. Refused (ConfigError naming the place): a request
without query or documents, unknown keys, values of other types.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.errors import ConfigError
from pipeline.official import OfficialItem, check_keys, parse_at, parse_instruction, parse_sampling

__all__ = ["OfficialRequest", "parse_request"]

KEYS = ("query", "documents", "instruction", "fps", "max_frames")


@dataclass(frozen=True, slots=True)
class OfficialRequest:
    """A request, checked. The query has the instruction that holds (None: the config's or the default).

    Sampling that the request gives for all is that of each side which has none of its own.
    """

    query: OfficialItem
    documents: tuple[OfficialItem, ...]


def parse_request(raw: Mapping[str, Any]) -> OfficialRequest:
    """The request `raw`. Raises ConfigError.

    Of several instructions that of a tuple wins, then the query's own, then the request's; documents' say nothing.
    """
    check_keys(raw, "the request", KEYS, "{'query': …, 'documents': […]}")
    missing = [key for key in ("query", "documents") if raw.get(key) is None]
    if missing:
        raise ConfigError(f"the request has no {missing[0]!r}; give {{'query': …, 'documents': […]}}")
    documents = raw["documents"]
    if not isinstance(documents, list | tuple):
        raise ConfigError(f"documents is a {type(documents).__name__}; give a list of dictionaries")
    fps, max_frames = parse_sampling(raw, "request")
    query = _query(raw["query"])
    shared = parse_instruction(raw.get("instruction"), "request['instruction']")
    return OfficialRequest(
        _sampled(replace(query, instruction=query.instruction or shared), fps, max_frames),
        tuple(
            _sampled(parse_at(document, f"documents[{index}]"), fps, max_frames)
            for index, document in enumerate(documents)
        ),
    )


def _query(raw: Any) -> OfficialItem:  # noqa: ANN401 - users give any object
    if isinstance(raw, tuple):
        raw = {"text": raw}
    if isinstance(raw, Mapping) and isinstance(raw.get("text"), tuple):
        told = raw["text"]
        if len(told) != 2:
            raise ConfigError(f"the query's tuple has {len(told)} elements; give (instruction, text), or a list")
        own = parse_instruction(told[0], "the instruction of query's tuple")
        raw = {**raw, "text": told[1], "instruction": own or raw.get("instruction")}
    return parse_at(raw, "query")


def _sampled(item: OfficialItem, fps: float | None, max_frames: int | None) -> OfficialItem:
    return replace(
        item,
        fps=fps if item.fps is None else item.fps,
        max_frames=max_frames if item.max_frames is None else item.max_frames,
    )
