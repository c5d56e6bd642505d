"""The GPU benchmark's goals are held against the right figures, and its vLLM arm gets the same model."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from benchmarks.encode_arms import Stock
from benchmarks.encode_goals import goals_of, print_goals
from benchmarks.encode_items import skewed_texts
from benchmarks.encode_shapes import TINY, random_model
from benchmarks.encode_timing import compare
from benchmarks.encode_vllm import vllm_arms
from tests.fixtures.prepared import text_item


def cell(busy: float | None, measured: float, nominal: float, **speedups: float) -> dict[str, Any]:
    arms = {name.replace("_", " "): {"speedup": speedup} for name, speedup in speedups.items()}
    ours = {"speedup": 1.0, "of_measured_rate": measured, "of_nominal_rate": nominal}
    return {"busy": busy and {"busy_share": busy}, "arms": {"ours": ours, "ours strict": {"speedup": 0.5}} | arms}


def test_goals_are_met_by_the_figures_that_they_name() -> None:
    cells = {
        "mix": cell(0.97, 0.61, 0.50, stock_padded_16=5.1, stock_tuned_8=1.9, stock_tuned_32=2.5),
        "text 500": cell(0.94, 0.50, 0.50, stock_padded_16=1.2, stock_tuned_8=0.9, stock_tuned_32=1.1, vllm=1.3),
        "texts": cell(0.99, 0.50, 0.50, stock_padded_16=9.0, stock_tuned_8=2.0, stock_tuned_32=2.0, vllm=1.2),
    }
    found = {goal.text: (goal.figure, goal.verdict) for goal in goals_of(cells, "2b")}
    assert found == {
        "share of the measured product rate, mix": (0.61, "met"),
        "share of 990 TFLOP/s, text 500": (0.50, "met"),
        "share of 990 TFLOP/s, image 1024": (None, "not measured"),
        "against the stock loop in padded batches of 16, mix": (5.1, "met"),
        "against the stock loop as tuned, mix": (1.9, "missed"),
        "against the stock loop in any form, the least of all cells": (0.9, "missed"),
        "against vLLM's offline pooling, the least of all text cells": (1.2, "met"),
        "share of the wall time in which a kernel ran, the least of all cells": (0.94, "missed"),
    }
    of_8b = {goal.text: goal.verdict for goal in goals_of(cells, "8b")}
    assert of_8b["share of 990 TFLOP/s, text 500"] == "missed"


def test_a_run_that_measured_nothing_met_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    written = print_goals(goals_of({}, "2b"), None)
    assert {goal["verdict"] for goal in written} == {"not measured"}
    assert len(written) == 8
    assert "goal: against the stock loop as tuned, mix, at least 2.00×: not measured\n" in capsys.readouterr().out


class Engine:
    """Stands for `vllm.LLM`: reads the folder as transformers do, pools the last token, normalises."""

    def __init__(self, model: str, runner: str, dtype: str, max_model_len: int, **_: Any) -> None:
        assert runner == "pooling"
        self._longest = max_model_len
        self._model = Qwen3ForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True).model

    def embed(self, prompts: Sequence[dict[str, list[int]]], use_tqdm: bool) -> list[Any]:
        return [SimpleNamespace(outputs=SimpleNamespace(embedding=self._pooled(one))) for one in prompts]

    @torch.inference_mode()
    def _pooled(self, prompt: dict[str, list[int]]) -> list[float]:
        ids = prompt["prompt_token_ids"]
        assert len(ids) <= self._longest
        state = self._model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        return torch.nn.functional.normalize(state, dim=0).tolist()


def vllm_with(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    module = ModuleType("vllm")
    module.__spec__ = ModuleSpec("vllm", None)
    module.LLM = engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_vllm_is_given_the_same_language_model(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_with(monkeypatch, Engine)
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    items = [*skewed_texts(3, 20), text_item(40, seed=5)]
    [vllm] = vllm_arms(model, max(item.n_tokens for item in items))
    found = compare([Stock(model, 2), vllm], items, rounds=1)
    assert found["arms"]["vllm"]["max_abs"] < 1e-5
    assert found["apart"] > 0.1
    assert vllm.run(items).dtype == np.float32


@pytest.mark.parametrize("installed", [True, False])
def test_without_vllm_or_if_it_fails_its_arm_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], installed: bool
) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("no kernel for this card")

    if installed:
        vllm_with(monkeypatch, broken)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert vllm_arms(random_model(TINY, torch.device("cpu"), torch.float32), 10) == []
    assert ("no kernel for this card" if installed else "not installed") in capsys.readouterr().out
