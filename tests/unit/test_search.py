"""`lakevec search`: the index's own preprocessing and the job's own kernels, in one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.checkpoint import resolve_checkpoint
from pipeline.cli import main
from pipeline.config import InputsConfig, ModelConfig, VectorSpec
from pipeline.embedder import Embedder
from pipeline.hit_table import hit_line
from pipeline.retrieval.vector_index import open_index
from pipeline.search import Hit, search, settle_search
from pipeline.storage import open_store
from tests.fixtures.golden_cases import png
from tests.fixtures.tiny_model import tiny_model
from tests.fixtures.vector_index import unit_vectors, write_index

TEXTS = ["a red bicycle", "ein rotes Fahrrad", "the sea at night", "a stone wall", "[link] to nowhere"]
SPECS = (VectorSpec(name="small", dim=32, dtype="int8"), VectorSpec(name="bits", dim=32, dtype="binary"))
INPUTS = InputsConfig(instruction="Represent the scene.", max_length=128)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of five texts and a picture, made with an instruction, and with a summary of the run that made it."""
    folder = tmp_path_factory.mktemp("lake")
    model = str(tiny_model())
    with Embedder(model, dtype="float32", inputs=INPUTS) as embedder:
        vectors = embedder.embed([{"text": text} for text in TEXTS] + [{"image": png(64, 96, 7)}])
    identity = resolve_checkpoint(ModelConfig(path=model)).identity
    facts = {"model": model, "revision": "null", "model_identity": identity, "model_dtype": "float32"}
    store = open_store(str(folder / "out"))
    ids = [*(f"t{number}" for number in range(5)), "picture"]
    carry = {"caption": pa.array([*TEXTS, None]), "year": pa.array(range(2000, 2006))}
    write_index(store, ids, vectors, SPECS, carry=carry, cuts=[2], group_rows=2, facts=facts)
    summary = {"config": {"inputs": INPUTS.model_dump(mode="json")}}
    store.put("reports/run1/summary.json", json.dumps(summary).encode())
    return str(folder / "out")


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["search", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_words_find_the_item_that_says_them(lake: str, capsys: pytest.CaptureFixture[str]) -> None:
    hits = found(capsys, lake, "--text", TEXTS[1], "--instruction", INPUTS.instruction or "", "-k", "3")
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["id"] == "t1"
    assert hits[0]["score"] == pytest.approx(1, abs=0.01)
    assert hits[0]["columns"] == {"modality": "text", "caption": TEXTS[1], "year": 2001}
    assert hits[0]["score"] > hits[1]["score"] >= hits[2]["score"]


def test_a_picture_finds_itself_and_a_filter_hides_it(
    lake: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "p.png").write_bytes(png(64, 96, 7))
    asked = ["--image", str(tmp_path / "p.png"), "--instruction", INPUTS.instruction or "", "--vector", "bits"]
    assert main(["search", lake, *asked, "-k", "2"]) == 0
    table = capsys.readouterr().out
    assert table.index("picture") < table.index("text")
    for name in ("rank", "score", "modality", "caption", "year", "2005"):
        assert name in table
    assert "picture" not in [hit["id"] for hit in found(capsys, lake, *asked, "--filter", "year < 2005")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --text or --image"),
        (["--text", "x", "-k", "0"], "give 1 or more"),
        (["--text", "x", "--vector", "vector"], "no vector column 'vector'"),
        (["--text", "x", "--filter", "colour = 1"], "colour"),
    ],
)
def test_what_cannot_be_searched_for_is_said(
    lake: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["search", lake, *arguments]) != 0
    assert said in capsys.readouterr().err


def test_another_model_is_refused_and_no_model_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"model": str(tiny_model()), "model_identity": "local:other"}
    write_index(open_store(str(tmp_path / "a")), ["x"], unit_vectors(1, 32), SPECS, facts=facts)
    assert main(["search", str(tmp_path / "a"), "--text", "x"]) == 2
    assert "the index was made by" in capsys.readouterr().err
    write_index(open_store(str(tmp_path / "b")), ["x"], unit_vectors(1, 32), SPECS)
    assert main(["search", str(tmp_path / "b"), "--text", "x"]) == 2
    assert "does not say which model made it; give --model" in capsys.readouterr().err


def test_the_columns_are_those_of_the_row_wherever_it_lies(tmp_path: Path) -> None:
    store, vectors = open_store(str(tmp_path / "out")), unit_vectors(40, 32)
    carry = {"number": pa.array(range(40))}
    write_index(store, list(range(40)), vectors, SPECS, carry=carry, cuts=[3, 20], group_rows=4)
    for vector, number in zip(vectors, range(40), strict=True):
        best, *others = search(settle_search(open_index(store), "small", 4), vector[None])
        assert (best.id, best.columns["number"]) == (number, number)
        assert all(hit.id == hit.columns["number"] for hit in others)
        assert np.isclose(best.score, 1, atol=0.01)


def test_values_that_json_lacks_are_text() -> None:
    line = hit_line(Hit(1, "a", 0.5, {"when": pa.scalar(0, pa.date32()).as_py(), "raw": b"x"}))
    assert json.loads(line)["columns"] == {"when": "1970-01-01", "raw": "b'x'"}
