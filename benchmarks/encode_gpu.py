"""Encoding on a GPU: true shapes, random weights; needs torch, transformers and NumPy.

    python -m benchmarks.encode_gpu --model 2b --out encode_gpu_2b.json

Calibrates the card (a matrix product of 8192³ and a copy, in this run), compares vectors with float32, then times each
cell: ours against the stock loop as shipped (batches of 16, given order) and as tuned (sorted, no cache, inputs made
ahead, batches of 8 and of 32), and against sentence-transformers and, on texts, vLLM, where they are installed. A share
of a rate counts the operations of useful tokens only, and those of a shared instruction once. Ends with a line a goal:
met, missed or not measured.
`--tiny --device cpu` shows that the script runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.encode_arms import Arm, Ours, SentenceTransformers, Stock
from benchmarks.encode_goals import NOMINAL_FLOP_S, goals_of, nominal_goal, print_goals
from benchmarks.encode_items import images, mixed, skewed_texts, texts, videos
from benchmarks.encode_parity import parity
from benchmarks.encode_profile import calibrate, gpu_busy, memory_gib, varlen_signature
from benchmarks.encode_shapes import B2, B8, TINY, Shape, flops_of, flops_of_token, random_model
from benchmarks.encode_timing import compare, machine, print_rows, write_json
from benchmarks.encode_vllm import vllm_arms
from pipeline.models.options import EncoderOptions
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.types import Prepared

SHAPES = {"2b": B2, "8b": B8}


def cells(scale: float) -> dict[str, list[Prepared]]:
    """The cells, the telling ones first; `scale` 1 keeps a 2B model on an H200 busy for about a second each, as
    calculated."""

    def n(count: int) -> int:
        return max(2, round(count * scale))

    pictures = [(992, 1024, 1056), (512, 768, 1024)]
    mix = mixed(skewed_texts(n(400), 200), images(n(40), pictures[1]), videos(n(1), 64, 352, 640))
    return {
        "mix": mix,
        "image 1024": images(n(48), pictures[0]),
        "texts": skewed_texts(n(1024), 200, sigma=0.9),
        "text 500": texts([500] * n(256)),
        "video 64": videos(n(4), 64, 352, 640),
        "text 100": texts([100] * n(1024)),
    }


def small_cells() -> dict[str, list[Prepared]]:
    """Cells that a CPU computes with a tiny model in a moment."""
    mix = mixed(skewed_texts(6, 20, longest=60), images(2, (64, 96)), videos(1, 4, 64, 64))
    return {"mix": mix, "texts": skewed_texts(4, 20, longest=60)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SHAPES), default="2b")
    parser.add_argument("--out", help="where the JSON goes, rewritten after every cell")
    parser.add_argument("--minutes", type=float, default=8.0, help="no cell starts after that")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=float, default=1.0, help="of the cells")
    parser.add_argument("--rounds", type=int, default=1, help="each is one run there and one back of every arm")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and tiny cells: to see that this runs")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    deadline = time.monotonic() + 60 * chosen.minutes
    device, shape = torch.device(chosen.device), TINY if chosen.tiny else SHAPES[chosen.model]
    document: dict[str, Any] = {"machine": machine(), "options": vars(chosen), "varlen_attn": varlen_signature()}
    document["calibration"] = calibrate(device, small=chosen.tiny)
    write_json(chosen.out, document)
    model = random_model(shape, device, torch.bfloat16)
    started = time.monotonic()
    encoder = Qwen3VLEncoder(model, EncoderOptions(attention=chosen.attention))
    encoder.check_contract()
    document["start_up_s"], document["token_budget"] = time.monotonic() - started, encoder.token_budget
    strict = Qwen3VLEncoder(model, EncoderOptions(chosen.attention, encoder.token_budget, strict_rounding=True))
    sets = small_cells() if chosen.tiny else cells(chosen.scale)
    document["parity"] = parity([Ours(encoder), Ours(strict, "ours strict"), Stock(model, 8)], model, sets["mix"])
    write_json(chosen.out, document)
    arms = _arms(encoder, strict, model)
    texts_of = [items for items in sets.values() if _is_text(items)]
    longest = max(item.n_tokens for items in texts_of for item in items)
    # Only once a cell is for it: until then its memory belongs to the others.
    of_texts = functools.cache(lambda: vllm_arms(model, longest) if device.type == "cuda" else [])
    document["cells"] = {}
    for name, items in sets.items():
        if time.monotonic() > deadline:
            print(f"{name}: no time left")
            continue
        rivals = [*arms, *(of_texts() if _is_text(items) else ())]
        document["cells"][name] = _cell(name, rivals, items, shape, device, document["calibration"], chosen.rounds)
        write_json(chosen.out, document)
    document["goals"] = print_goals(goals_of(document["cells"], shape.name), document["machine"]["gpu"])
    write_json(chosen.out, document)
    return document


def _arms(encoder: Qwen3VLEncoder, strict: Qwen3VLEncoder, model: Any) -> list[Arm]:  # noqa: ANN401 - a stock model
    arms: list[Arm] = [Ours(encoder), Ours(strict, "ours strict"), Stock(model, 16)]
    arms += [Stock(model, 8, tuned=True), Stock(model, 32, tuned=True)]
    if importlib.util.find_spec("sentence_transformers"):
        arms.append(SentenceTransformers(model, 32))
    return arms


def _cell(
    name: str,
    arms: Sequence[Arm],
    items: Sequence[Prepared],
    shape: Shape,
    device: torch.device,
    calibration: dict[str, float],
    rounds: int,
) -> dict[str, Any]:
    left_out = {arm.name: why for arm in arms if (why := _problem(arm, items)) is not None}
    fitting = [arm for arm in arms if arm.name not in left_out]
    found = compare(fitting, items, rounds=rounds, wait=_waiter(device))
    flops = flops_of(items, shape)
    for arm in fitting:
        row = found["arms"][arm.name]
        # A share of a rate is of what was computed: an instruction that was shared must not count for every item.
        row["saved_tokens"] = arm.saved_tokens(items) if isinstance(arm, Ours) else 0
        computed = flops - row["saved_tokens"] * flops_of_token(shape)
        row["tflop_s"] = computed / row["median_s"] / 1e12
        row["of_measured_rate"] = computed / row["median_s"] / calibration["product_flop_s"]
        row["of_nominal_rate"] = computed / row["median_s"] / NOMINAL_FLOP_S
    found["flops"], found["left_out"] = flops, left_out
    found["peak_gib"] = memory_gib(device, lambda: arms[0].run(items))
    found["busy"] = gpu_busy(device, lambda: arms[0].run(items))
    print_rows(name, found)
    ours = found["arms"][arms[0].name]
    print(
        f"{name:<14} {ours['tflop_s']:.1f} TFLOP/s, {ours['of_measured_rate']:.1%} of the measured product rate, "
        f"{ours['of_nominal_rate']:.1%} of the nominal {NOMINAL_FLOP_S / 1e12:.0f} TFLOP/s; "
        f"peak {found['peak_gib']} GiB; busy {found['busy']}"
    )
    if goal := nominal_goal(name, shape.name, ours):
        print(f"{name:<14} {goal}")
    return found


def _problem(arm: Arm, items: Sequence[Prepared]) -> str | None:
    """Why `arm` cannot take part, None if it can. Ours must."""
    try:
        arm.run(items)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        problem = "out of memory"
    except Exception as error:
        if arm.name != "vllm":
            raise
        problem = f"{type(error).__name__}: {error}"
    else:
        return None
    print(f"{arm.name}: left out, {problem}", flush=True)
    return problem


def _is_text(items: Sequence[Prepared]) -> bool:
    return not any(item.visuals for item in items)


def _waiter(device: torch.device) -> Callable[[], None]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


if __name__ == "__main__":
    main()
