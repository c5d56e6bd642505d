"""The element-wise pieces round as the stock modules do; compiled ones agree; a compiler that fails costs nothing."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextRMSNorm,
    apply_rotary_pos_emb,
    apply_rotary_pos_emb_vision,
)

from pipeline.models.pieces import Pieces, fused_pieces, stock_pieces
from pipeline.models.warm_up import PieceSizes
from tests.fixtures.said import texts_said

CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def values(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rms_norm(width: int, dtype: torch.dtype) -> Any:
    norm = Qwen3VLTextRMSNorm(width, eps=1e-6).to(dtype)
    norm.weight.data = values(width, dtype=dtype, seed=9)
    return norm.requires_grad_(False)


def angles(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    turns = values(rows, 1, 8, dtype=torch.float32, seed=3)
    return turns.cos().to(dtype), turns.sin().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_and_text_rotation_are_bit_equal_to_the_stock_ones(dtype: torch.dtype) -> None:
    pieces, norm, heads = stock_pieces(), rms_norm(16, dtype), values(7, 4, 16, dtype=dtype)
    assert torch.equal(pieces.norm(heads, norm.weight, 1e-6), norm(heads))
    x, delta = values(7, 16, dtype=dtype, seed=1), values(7, 16, dtype=dtype, seed=2)
    total, normed = pieces.add_norm(x.clone(), delta, norm.weight, 1e-6)
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, norm(x + delta))
    cos, sin = angles(7, dtype)
    whole = (torch.cat([cos, cos], -1)[None, :, 0], torch.cat([sin, sin], -1)[None, :, 0])
    stock, _ = apply_rotary_pos_emb(norm(heads).transpose(0, 1)[None], heads.transpose(0, 1)[None], *whole)
    assert torch.equal(pieces.norm_rope(heads, norm.weight, 1e-6, cos, sin), stock[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_and_vision_rotation_are_bit_equal_to_the_stock_ones(dtype: torch.dtype) -> None:
    pieces, gate, up = stock_pieces(), values(7, 16, dtype=dtype), values(7, 16, dtype=dtype, seed=1)
    assert torch.equal(pieces.swiglu(gate.clone(), up), torch.nn.functional.silu(gate) * up)
    heads, (cos, sin) = values(7, 4, 16, dtype=dtype), angles(7, torch.float32)
    stock, _ = apply_rotary_pos_emb_vision(
        heads, heads, torch.cat([cos, cos], -1)[:, 0], torch.cat([sin, sin], -1)[:, 0]
    )
    assert torch.equal(pieces.vision_rope(heads, cos, sin), stock)


SIZES = PieceSizes(hidden=16, ffn=24, q_heads=4, kv_heads=2, head_dim=16, vision_heads=4, vision_head_dim=16)


def fused(
    monkeypatch: pytest.MonkeyPatch, compiler: Callable[..., Any], clock: Callable[[], float] = lambda: 0.0
) -> Pieces:
    monkeypatch.setattr(torch, "compile", compiler)
    return fused_pieces(CPU, torch.bfloat16, SIZES, clock)


def test_compiled_pieces_take_any_number_of_rows_without_compiling_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    pieces = fused(monkeypatch, functools.partial(torch.compile, backend=backend))
    warm = len(compiled)
    assert warm >= 5
    norm = rms_norm(16, torch.bfloat16)
    with torch.inference_mode():
        for rows in (1, 2, 7, 100):
            x, delta = values(rows, 16, dtype=torch.bfloat16), values(rows, 16, dtype=torch.bfloat16, seed=1)
            total, normed = pieces.add_norm(x, delta, norm.weight, 1e-6)
            assert torch.equal(normed, norm(x + delta))
            assert torch.equal(total, x + delta)
            gate, up = values(rows, 24, dtype=torch.bfloat16), values(rows, 24, dtype=torch.bfloat16, seed=1)
            assert torch.equal(pieces.swiglu(gate, up), torch.nn.functional.silu(gate) * up)
            # One row has only the pooled token's query; keys and pictures never have so few.
            for count in (4,) if rows == 1 else (2, 4):
                heads, turns = values(rows, count, 16, dtype=torch.bfloat16), angles(rows, torch.bfloat16)
                expected = stock_pieces().norm_rope(heads, norm.weight, 1e-6, *turns)
                assert torch.equal(pieces.norm_rope(heads, norm.weight, 1e-6, *turns), expected)
            if rows > 1:
                heads, (cos, sin) = values(rows, 3, 4, 16, dtype=torch.bfloat16)[:, 1], angles(rows, torch.float32)
                assert torch.equal(pieces.vision_rope(heads, cos, sin), stock_pieces().vision_rope(heads, cos, sin))
    assert len(compiled) == warm


def compiler(seconds: list[float] | None = None, **failing: Exception) -> Callable[..., Any]:
    """A compiler that changes nothing, adds 40 to `seconds` a piece, and raises for the functions named."""

    def compiled(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            if function.__name__ in failing:
                raise failing[function.__name__]
            return function(*arguments)

        if seconds is not None:
            seconds[0] += 40.0
        return call

    return compiled


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")


def test_pieces_that_cannot_be_compiled_stay_stock_and_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = RuntimeError("no compiler here\nand a long trace")
    failing = {"_norm": broken, "_norm_rope": broken, "_fresh_swiglu": NO_MEMORY}
    with caplog.at_level(logging.INFO, "lakevec"):
        pieces = fused(monkeypatch, compiler(**failing))
    stock = stock_pieces()
    assert (pieces.norm, pieces.norm_rope, pieces.swiglu) == (stock.norm, stock.norm_rope, stock.swiglu)
    assert pieces.add_norm != stock.add_norm
    assert pieces.vision_rope != stock.vision_rope
    assert texts_said(caplog) == [
        "fused add_norm, vision_rope in 0.0 s",
        "the encoder runs norm_rope, norm unfused, slower (torch.compile failed: no compiler here)",
        "the encoder runs swiglu unfused, slower (no memory is left on cpu to try it)",
    ]


def test_a_device_without_memory_for_the_warm_up_gets_the_stock_pieces(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise NO_MEMORY

    monkeypatch.setattr(torch, "ones", full)
    with caplog.at_level(logging.INFO, "lakevec"):
        assert fused(monkeypatch, compiler()) == stock_pieces()
    assert texts_said(caplog) == [
        "the encoder runs add_norm, norm_rope, swiglu, vision_rope, norm unfused, slower"
        " (no memory is left on cpu to try it)"
    ]


def test_a_slow_compiler_is_given_so_much_time_and_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = [1000.0]
    with caplog.at_level(logging.INFO, "lakevec"):
        pieces = fused(monkeypatch, compiler(seconds), lambda: seconds[0])
    assert pieces.vision_rope == stock_pieces().vision_rope
    assert pieces.swiglu != stock_pieces().swiglu
    assert texts_said(caplog) == [
        "fused add_norm, norm_rope, swiglu in 120.0 s",
        "the encoder runs vision_rope, norm unfused, slower (compiling took more than 90 s)",
    ]
