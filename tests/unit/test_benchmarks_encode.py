"""The encode benchmarks run from end to end, count what they should, and say so in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import encode_cpu, encode_gpu
from benchmarks.encode_arms import Ours, Stock, Vectors
from benchmarks.encode_items import INSTRUCTION_TOKENS, images, skewed_texts, texts
from benchmarks.encode_parity import of_every_length, parity
from benchmarks.encode_profile import busy_of
from benchmarks.encode_shapes import B2, B8, TINY, flops_of, flops_of_token, random_model
from benchmarks.encode_timing import compare
from pipeline.models.options import EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.types import Prepared
from tests.fixtures.prepared import clip_item, image_item, text_item


def test_the_gpu_benchmark_runs_on_a_cpu_with_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    document = encode_gpu.main(["--tiny", "--device", "cpu", "--out", str(out)])
    assert json.loads(out.read_text()) == document
    cell = document["cells"]["mix"]
    assert set(cell["arms"]) >= {"ours", "ours strict", "stock padded 16", "stock tuned 8", "stock tuned 32"}
    assert all(row["cosine"] > 0.99 for row in cell["arms"].values())
    assert all(row["of_measured_rate"] > 0 for row in cell["arms"].values())
    assert set(document["parity"]["arms"]) == {"ours", "ours strict", "stock padded 8"}
    assert all(row["worst"] > 0.99 for row in document["parity"]["arms"].values())
    said = capsys.readouterr().out
    assert "of the measured product rate" in said
    assert [line for line in said.splitlines() if line.startswith("goal: ")][-1].endswith("not measured")


def test_the_float32_yardstick_leaves_the_model_as_it_was() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    parity([Stock(model, 2)], model, [text_item(9), text_item(12, seed=1)])
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


def test_the_cpu_benchmark_runs_with_a_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "cpu.json"
    threads = torch.get_num_threads()
    document = encode_cpu.main(["--tiny", "--scale", "0.1", "--threads", str(threads), "--out", str(out)])
    assert set(json.loads(out.read_text())["cells"]) == set(document["cells"]) == set(encode_cpu.sets(0.1))
    for cell in document["cells"].values():
        assert cell["arms"]["stock padded 16"]["max_abs"] < 1e-5
        assert cell["arms"]["ours"]["speedup"] == 1.0
        assert len(cell["arms"]["ours"]["seconds"]) == 2


def test_an_arm_that_is_wrong_shows() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    ours, broken = Ours(Qwen3VLEncoder(model, EncoderOptions())), Stock(model, 4)
    items = [*skewed_texts(3, 20), *images(1, (64,))]
    right = broken.run
    broken.run = lambda given: right(given)[::-1].copy()  # type: ignore[method-assign]
    cell = compare([ours, broken], items, rounds=1)
    assert cell["arms"]["stock padded 4"]["max_abs"] > 1e-3
    broken.run = lambda given: right(given)[1:]  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="4 items in, 3 out"):
        compare([ours, broken], items, rounds=1)


def test_operations_are_counted_as_torch_counts_them() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    encoder = Qwen3VLEncoder(model, EncoderOptions(attention="eager", shortcut=False))
    items = [text_item(30), image_item(128, 96), clip_item(4, 64, 64)]
    with FlopCounterMode(display=False) as counter:
        encoder.encode(items)
    # torch counts a causal square in full.
    causal = 2 * TINY.layers * TINY.heads * TINY.head_dim * sum(item.n_tokens**2 for item in items)
    assert flops_of(items, TINY) + causal == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_a_shared_instruction_counts_once() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.float32)
    options = EncoderOptions(attention="eager", shortcut=False)
    shared, whole = (Qwen3VLEncoder(model, replace(options, prefixes=prefixes)) for prefixes in (True, False))
    items = texts([20] * 40)
    saved = Ours(shared).saved_tokens(items)
    assert saved == 39 * INSTRUCTION_TOKENS
    assert Ours(whole).saved_tokens(items) == 0
    counted = []
    for encoder in (shared, whole):
        with FlopCounterMode(display=False) as counter:
            encoder.encode(items)
        counted.append(counter.get_total_flops())
    # Its queries' attention, in full squares as torch counts; at the true shapes that is next to nothing.
    squares = 4 * TINY.layers * TINY.heads * TINY.head_dim * (40 * 20 * INSTRUCTION_TOKENS - INSTRUCTION_TOKENS**2)
    assert counted[1] - counted[0] == pytest.approx(saved * flops_of_token(TINY) + squares, rel=0.01)


def test_the_true_shapes_cost_what_is_known_of_them() -> None:
    text, picture = [text_item(96)], [image_item(1024, 1024)]
    assert flops_of(text, B2) / 100 == pytest.approx(2.82e9, rel=0.02)
    assert flops_of(text, B8) / 100 == pytest.approx(13.89e9, rel=0.02)
    assert flops_of(picture, B2) == pytest.approx(7.42e12, rel=0.02)
    assert flops_of(picture, B8) == pytest.approx(20.7e12, rel=0.02)


def test_overlapping_kernels_are_counted_once() -> None:
    found = busy_of([(100.0, 102.0), (101.0, 103.0), (170.0, 171.0), (103.0, 104.0)], wall_us=200.0)
    assert found == {"busy_share": 5 / 200, "wall_s": 200e-6, "bubbles": 1, "kernels": 4}
    assert busy_of([], wall_us=10.0)["busy_share"] == 0.0


def test_parity_is_shown_on_every_length() -> None:
    items = [*(text_item(words, seed=words) for words in range(300)), image_item(64, 64), image_item(128, 96)]
    chosen = of_every_length(items)
    lengths = [item.n_tokens for item in chosen]
    assert (lengths[0], lengths[-1]) == (min(item.n_tokens for item in items), max(item.n_tokens for item in items))
    assert all(later <= 2 * earlier for earlier, later in pairwise(lengths))
    assert sum(bool(item.visuals) for item in chosen) >= 2
    assert len(chosen) <= 18


def test_an_item_too_large_in_float32_is_left_out_of_the_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(TINY, torch.device("cpu"), torch.bfloat16)
    right = Stock.run

    def small_card(arm: Stock, items: Sequence[Prepared]) -> Vectors:
        if next(model.parameters()).dtype == torch.float32 and items[0].n_tokens > 50:
            raise torch.OutOfMemoryError
        return right(arm, items)

    monkeypatch.setattr(Stock, "run", small_card)
    found = parity([Stock(model, 2)], model, [text_item(words) for words in (9, 30, 90)])
    assert (found["items"], found["longest_tokens"]) == (2, 34)
    assert found["arms"]["stock padded 2"]["worst"] > 0.99
