"""The rerank benchmark runs from end to end, counts what it should, and says so in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import rerank
from benchmarks.encode_shapes import B2, TINY, flops_of
from benchmarks.rerank_items import DOCUMENT_PROMPT_TOKENS, QUERY_PROMPT_TOKENS, cells, costs_of
from pipeline.rerank.pair import join
from pipeline.rerank.template import DEFAULT_RERANK_INSTRUCTION, compose_document, compose_query
from tests.fixtures.tokenizer import rerank_tokenizer


def test_the_benchmark_runs_with_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rerank.json"
    document = rerank.main(["--tiny", "--documents", "5", "--loop-pairs", "2", "--out", str(out)])
    assert json.loads(out.read_text()) == document
    assert set(document["cells"]) == set(cells(1, tiny=True))
    for cell in document["cells"].values():
        arms = cell["arms"]
        assert [(name, row["pairs"]) for name, row in arms.items()] == [
            ("ours", 5),
            ("packed, not shared", 5),
            ("official loop", 2),
        ]
        assert all(row["max_abs"] < 1e-5 for row in arms.values())
        assert cell["apart"] > 1e-3
        loop = arms["official loop"]
        assert loop["all_pairs_s"] == pytest.approx(sum(loop["seconds"]) / 2 * 5 / 2)
        assert loop["by_tokens"] > 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("goal: ")]
    assert [line.endswith(": not measured") for line in said] == [True, True, False, False, False, False]


def test_the_goals_on_a_gpu_are_judged_by_the_loop() -> None:
    def cell(gain: float) -> dict[str, object]:
        arms = {"official loop": {"gain": gain}, "packed, not shared": {"gain": 3.0, "by_operations": 2.0}}
        return {"arms": arms}

    found = {"image query, texts": cell(9.9), "image query, images": cell(5.1)}
    assert [goal.verdict for goal in rerank.goals_of(found, on_gpu=True)] == ["missed", "met", "met", "met"]
    assert [goal.verdict for goal in rerank.goals_of(found, on_gpu=False)][:2] == ["not measured"] * 2


def test_an_arm_that_is_wrong_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rerank.OfficialLoop._logit
    monkeypatch.setattr(rerank.OfficialLoop, "_logit", lambda loop, inputs: right(loop, inputs) + 1e-3)
    with pytest.raises(SystemExit, match="a score differs by"):
        rerank.main(["--tiny", "--documents", "2", "--threads", str(torch.get_num_threads())])


def test_prompts_have_the_length_of_real_ones() -> None:
    tokenizer = rerank_tokenizer()
    assert tokenizer.count(compose_query(DEFAULT_RERANK_INSTRUCTION, (), "")) == QUERY_PROMPT_TOKENS
    assert tokenizer.count(compose_document((), "")) == DOCUMENT_PROMPT_TOKENS
    lengths = {name: pairs[0].prefix.n_tokens for name, pairs in cells(1).items()}
    assert lengths["text query, texts"] == QUERY_PROMPT_TOKENS + 40
    assert lengths["image query, texts"] == QUERY_PROMPT_TOKENS + 992 + 2


def test_costs_are_those_of_the_prompts() -> None:
    for pairs in cells(3, tiny=True).values():
        costs, whole = costs_of(pairs, TINY), [join(pair) for pair in pairs]
        assert costs["one by one"].flops == pytest.approx(flops_of(whole, TINY))
        assert costs["whole"].tokens == sum(item.n_tokens for item in whole)
        saved = 2 * pairs[0].prefix.n_tokens
        assert costs["whole"].tokens - costs["shared"].tokens == saved
        alone = costs_of(pairs[:1], TINY)
        assert alone["shared"].flops == pytest.approx(alone["one by one"].flops)


def test_a_picture_read_once_for_a_hundred_texts_saves_what_is_known_of_it() -> None:
    costs = costs_of(cells(10)["image query, texts"] * 10, B2)
    assert 10 < costs["whole"].tokens / costs["shared"].tokens < 13
