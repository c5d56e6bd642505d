"""The official reranker's dictionary: read as the official code reads it, and refused by place and name otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.official import OfficialItem
from pipeline.rerank.official import parse_request
from pipeline.types import MediaKind

DOCUMENTS = [{"text": "a"}, {"image": "/a.png", "fps": 3}, {}]


def test_a_full_request() -> None:
    request = parse_request(
        {
            "query": {"text": "q", "video": "/v.mp4"},
            "documents": DOCUMENTS,
            "instruction": "x",
            "fps": 2,
            "max_frames": 8,
        }
    )
    assert (request.query.texts, request.query.instruction) == (("q",), "x")
    assert [one.kind for one in request.query.media] == [MediaKind.VIDEO]
    assert [one.texts for one in request.documents] == [("a",), (), ()]
    assert [(one.fps, one.max_frames) for one in (request.query, *request.documents)] == [
        (2, 8),
        (2, 8),
        (3, 8),
        (2, 8),
    ]
    assert request.documents[2] == OfficialItem((), (), None, 2.0, 8)


@pytest.mark.parametrize(
    ("query", "shared", "instruction", "texts"),
    [
        (("find", "q"), "all", "find", ("q",)),
        (("", "q"), "all", "all", ("q",)),
        ({"text": ("find", "q")}, None, "find", ("q",)),
        ({"text": ("find", ["q", "r"]), "instruction": "own"}, None, "find", ("q", "r")),
        ({"text": ["a", "b"], "instruction": "own"}, "all", "own", ("a", "b")),
        ({}, None, None, ()),
    ],
)
def test_the_nearest_instruction_holds(
    query: Any, shared: str | None, instruction: str | None, texts: tuple[str, ...]
) -> None:
    request = parse_request({"query": query, "documents": [], "instruction": shared})
    assert (request.query.instruction, request.query.texts, request.documents) == (instruction, texts, ())


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "the request is a list; give a dictionary"),
        ({"query": {}}, "has no 'documents'"),
        ({"query": None, "documents": []}, "has no 'query'"),
        ({"query": {}, "documents": {}}, "documents is a dict"),
        ({"query": {}, "docs": []}, "unknown key 'docs'; valid keys: query, documents"),
        ({"query": "q", "documents": []}, "query is a str"),
        ({"query": ("a", "b", "c"), "documents": []}, "3 elements"),
        ({"query": (1, "b"), "documents": []}, "is a int; give a string"),
        ({"query": {"img": "x"}, "documents": []}, "query has the unknown key 'img'"),
        ({"query": {}, "documents": [{}, {"text": 3}]}, r"documents\[1\]\['text'\] holds a int"),
        ({"query": {}, "documents": [], "fps": 0}, r"request\['fps'\] is 0"),
    ],
)
def test_a_malformed_request_is_refused_with_its_place(request_: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_request(request_)
