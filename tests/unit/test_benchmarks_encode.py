"""The encode benchmarks run from end to end, count what they should, and say so in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import encode_cpu, encode_gpu
from benchmarks.encode_arms import Ours, Stock
from benchmarks.encode_items import images, skewed_texts
from benchmarks.encode_profile import union_us
from benchmarks.encode_shapes import B2, B8, TINY, flops_of, random_model
from benchmarks.encode_timing import compare
from pipeline.models.options import EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from tests.fixtures.prepared import clip_item, image_item, text_item


def test_the_gpu_benchmark_runs_on_a_cpu_with_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    document = encode_gpu.main(["--tiny", "--device", "cpu", "--out", str(out)])
    assert json.loads(out.read_text()) == document
    cell = document["cells"]["mix"]
    assert set(cell["arms"]) >= {"ours", "ours strict", "stock padded 16", "stock tuned 8", "stock tuned 32"}
    assert all(row["cosine"] > 0.99 for row in cell["arms"].values())
    assert all(row["of_measured_rate"] > 0 for row in cell["arms"].values())
    assert all(row["worst"] > 0.99 for row in document["parity"].values())
    assert "of the measured product rate" in capsys.readouterr().out


def test_the_float32_yardstick_leaves_the_model_as_it_was() -> None:
    model = random_model(TINY, torch.device("cpu"), torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    encode_gpu.parity([Stock(model, 2)], model, [text_item(9), text_item(12, seed=1)])
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


def test_the_true_shapes_cost_what_is_known_of_them() -> None:
    text, picture = [text_item(96)], [image_item(1024, 1024)]
    assert flops_of(text, B2) / 100 == pytest.approx(2.82e9, rel=0.02)
    assert flops_of(text, B8) / 100 == pytest.approx(13.89e9, rel=0.02)
    assert flops_of(picture, B2) == pytest.approx(7.42e12, rel=0.02)
    assert flops_of(picture, B8) == pytest.approx(20.7e12, rel=0.02)


def test_overlapping_kernels_are_counted_once() -> None:
    assert union_us([(0.0, 2.0), (1.0, 3.0), (10.0, 11.0), (3.0, 4.0)]) == (5.0, [6.0])
    assert union_us([]) == (0.0, [])
