"""The library's reranker: official dictionaries in, the official scores out; failures are named, never dropped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import pipeline
from pipeline import reranker as library
from pipeline.errors import ConfigError, RejectCode
from pipeline.rerank.config import RerankInputs
from pipeline.reranker import Reranker, ScoreError
from tests.fixtures.golden_cases import formula_image, golden_rerank, png, rerank_items
from tests.fixtures.tiny_model import tiny_model

DOG = {"text": "dog"}


@pytest.fixture(scope="module")
def reranker() -> Iterator[Reranker]:
    with Reranker(str(tiny_model(reranker=True)), dtype="float32") as made:
        yield made


def official(*names: str) -> list[float]:
    return [golden_rerank(name)["score"] for name in names]


def test_the_official_scores(reranker: Reranker, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(200, 150, 1))
    picture = Image.fromarray(formula_image(200, 150, 1))
    clip = rerank_items("video_doc")[1].media[0].blobs[0]
    documents = [
        {"text": "cap", "image": str(tmp_path / "a.png")},
        {"video": clip},
        {},
        {"text": "cap", "image": picture},
    ]
    scores = reranker.score({"query": DOG, "documents": documents})
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, official("img_doc", "video_doc", "empty_doc", "img_doc"), atol=1e-6)
    for request, name in (
        ({"query": {"text": "dog on a beach"}, "documents": [{"text": "a golden retriever"}]}, "text"),
        ({"query": {"text": "q"}, "documents": [{"text": "d"}], "instruction": "Find it"}, "instr_nopunct"),
        ({"query": {"text": "like this", "image": png(64, 96, 7)}, "documents": [{"image": picture}]}, "img_query"),
    ):
        np.testing.assert_allclose(reranker.score(request), official(name), atol=1e-6, err_msg=name)


def test_scores_are_the_sigmoids_of_the_logits(reranker: Reranker) -> None:
    request = {"query": DOG, "documents": [{"text": "word " * n} for n in (1, 9, 90)]}
    logits = reranker.logits(request)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(reranker.score(request), 1 / (1 + np.exp(-logits)), rtol=1e-6)
    assert np.ptp(logits) > 1e-3


def test_a_document_that_is_there_twice_is_prepared_once(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Any] = []
    prepare = reranker._pool.prepare

    def counted(given: Sequence[Any]) -> list[Any]:
        tasks.extend(given)
        return prepare(given)

    monkeypatch.setattr(reranker._pool, "prepare", counted)
    a, b = {"text": "a"}, {"text": "b", "instruction": "no matter"}
    logits = reranker.logits({"query": DOG, "documents": [a, b, a, {"text": "b"}]})
    assert [role for role, _ in tasks] == ["query", "document", "document"]
    np.testing.assert_array_equal(logits[2:], logits[:2])
    assert logits[0] != logits[1]


def test_any_number_of_documents_at_once(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [{"text": f"document {number}"} for number in range(140)]
    together = reranker.logits({"query": DOG, "documents": documents})
    monkeypatch.setattr(library, "HELD_BYTES", 3_000)
    apart = reranker.logits({"query": DOG, "documents": documents[::-1]})
    np.testing.assert_allclose(apart[::-1], together, atol=1e-5)
    assert reranker.score({"query": DOG, "documents": []}).shape == (0,)


def test_every_failure_is_named_by_its_place(reranker: Reranker, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(png(40, 40, 1)[:100])
    absent = {"image": str(tmp_path / "absent.png")}
    documents = [{"text": f"{number}"} for number in range(66)]
    documents[1] = documents[65] = {"image": str(tmp_path / "bad.png")}
    with pytest.raises(ScoreError, match=r"^2 of 66 documents got no score: documents\[1\]: IMAGE_UNREAD") as caught:
        reranker.score({"query": DOG, "documents": documents})
    assert caught.value.query is None
    assert {place: (one.id, one.code) for place, one in caught.value.documents.items()} == {
        1: ("1", RejectCode.IMAGE_UNREADABLE),
        65: ("65", RejectCode.IMAGE_UNREADABLE),
    }
    with pytest.raises(
        ScoreError, match=r"^66 of 66 documents got no score: query: NOT_FOUND.*; documents\[1\]"
    ) as both:
        reranker.score({"query": absent, "documents": documents})
    assert both.value.query is not None
    assert (both.value.query.id, both.value.query.code) == ("query", RejectCode.NOT_FOUND)
    assert set(both.value.documents) == {1, 65}


NAN_TOKEN = 8849
"""Some token of the vocabulary whose embedding a test spoils."""


def test_instruction_and_inputs_hold_and_pairs_fail_alone(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(reranker=True), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.embed_tokens.weight"][NAN_TOKEN] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    word = Tokenizer.from_file(str(folder / "tokenizer.json")).decode([NAN_TOKEN])
    inputs = RerankInputs(max_length=100, over_length="reject")
    query, fine, long = {"text": "q"}, {"text": "d"}, {"text": "d " * 60}
    with Reranker(str(folder), dtype="float32", instruction="Find it", inputs=inputs) as spoilt:
        assert spoilt.device == "cpu"
        np.testing.assert_allclose(
            spoilt.score({"query": query, "documents": [fine]}), official("instr_nopunct"), atol=1e-6
        )
        with pytest.raises(ScoreError, match=r"1 of 2 .* documents\[1\]: OVER_LENGTH"):
            spoilt.score({"query": query, "documents": [fine, long]})
        with pytest.raises(ScoreError, match=r"1 of 2 .* documents\[1\]: NON_FINITE \(the reranker") as caught:
            spoilt.score({"query": query, "documents": [fine, {"text": word}]})
    assert caught.value.documents[1].id == "1"
    with pytest.raises(ConfigError, match="this Reranker is closed"):
        spoilt.score({"query": query, "documents": [fine]})


def test_a_malformed_request_and_an_embedders_tokenizer_are_config_errors(reranker: Reranker) -> None:
    with pytest.raises(ConfigError, match="has no 'documents'"):
        reranker.score({"query": DOG})
    with pytest.raises(ConfigError, match="is this an embedder's tokenizer"):
        Reranker(str(tiny_model()), dtype="float32")


def test_torch_and_decoders_never_share_a_process(reranker: Reranker) -> None:
    reranker.score({"query": {"image": png(64, 64, 1)}, "documents": [{}]})
    pool = reranker._pool._pool._started()
    there = pool.schedule(eval, args=("sorted(__import__('sys').modules)",)).result()
    assert [name in there for name in ("torch", "pipeline.decode.image")] == [False, True]
    script = "import sys, pipeline; pipeline.Reranker; print('torch' in sys.modules, 'PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.split() == ["False", "False"]


def test_the_package_offers_the_reranker_lazily() -> None:
    assert pipeline.Reranker is Reranker
