"""The golden comparison can fail: each mistake that a Qwen3-VL port is known for moves vectors far beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.batch import PackedBatch
from pipeline.models.qwen3_vl import Qwen3VLEncoder
from pipeline.models.segments import segments_of
from pipeline.types import Prepared
from tests.fixtures.golden_vectors import golden_error, golden_prepared, tiny_encoder

CASE = "mixed_all"
FAR = 1e-3
"""A hundred times the tolerance: a mistake, not a rounding."""


@pytest.fixture
def encoder() -> Qwen3VLEncoder:
    return tiny_encoder()


def test_without_a_mutation_the_case_passes(encoder: Qwen3VLEncoder) -> None:
    assert golden_error(encoder, [CASE])[0] <= 1e-5


def _prenorm(encoder: Qwen3VLEncoder) -> None:
    stock: Any = encoder._stock
    stock.language_model.norm = torch.nn.Identity()


def _vision_taps_one_layer_late(encoder: Qwen3VLEncoder) -> None:
    stock: Any = encoder._stock
    stock.visual.deepstack_visual_indexes = [index + 1 for index in stock.visual.deepstack_visual_indexes]


def _levels_changed(encoder: Qwen3VLEncoder, change: Callable[[list[torch.Tensor]], list[torch.Tensor]]) -> None:
    right = encoder._model._features
    encoder._model._features = lambda *args: change(right(*args))  # type: ignore[method-assign]


def _deepstack_one_decoder_layer_late(encoder: Qwen3VLEncoder) -> None:
    _levels_changed(encoder, lambda levels: [levels[0], torch.zeros_like(levels[0]), *levels[1:]])


def _no_deepstack(encoder: Qwen3VLEncoder) -> None:
    _levels_changed(encoder, lambda levels: levels[:1])


def _visual_tokens_shifted(encoder: Qwen3VLEncoder) -> None:
    _levels_changed(encoder, lambda levels: [level.roll(1, 0) for level in levels])


def _the_token_before_the_last_is_pooled(encoder: Qwen3VLEncoder) -> None:
    right = encoder._sender.send
    encoder._sender.send = lambda batch: right(replace(batch, last=batch.last - 1))  # type: ignore[method-assign]


def _attention_crosses_items(encoder: Qwen3VLEncoder) -> None:
    right = encoder._sender.send
    encoder._sender.send = lambda batch: _one_segment(right(batch))  # type: ignore[method-assign]


def _one_segment(batch: PackedBatch) -> PackedBatch:
    total = sum(batch.segments.lengths)
    return replace(batch, segments=segments_of([total], torch.tensor([0, total], dtype=torch.int32)))


def _no_vision_positions(encoder: Qwen3VLEncoder) -> None:
    stock: Any = encoder._stock
    stock.visual.pos_embed.weight.data.zero_()


def _one_decoder_layer_missing(encoder: Qwen3VLEncoder) -> None:
    stock: Any = encoder._stock
    stock.language_model.layers = stock.language_model.layers[:-1]


@pytest.mark.parametrize(
    "mutate",
    [
        _prenorm,
        _vision_taps_one_layer_late,
        _deepstack_one_decoder_layer_late,
        _no_deepstack,
        _no_vision_positions,
        _visual_tokens_shifted,
        _the_token_before_the_last_is_pooled,
        _one_decoder_layer_missing,
    ],
)
def test_a_wrong_model_fails(encoder: Qwen3VLEncoder, mutate: Callable[[Qwen3VLEncoder], None]) -> None:
    mutate(encoder)
    assert golden_error(encoder, [CASE])[0] > FAR


def test_attention_that_crosses_items_fails_in_company(encoder: Qwen3VLEncoder) -> None:
    encoder._model._shortcut = False
    assert golden_error(encoder, [CASE, "text"]).max() <= 1e-5
    _attention_crosses_items(encoder)
    assert golden_error(encoder, [CASE, "text"]).max() > FAR


def _without_eos(item: Prepared) -> Prepared:
    return replace(item, input_ids=item.input_ids[:-1], position_ids=item.position_ids[:, :-1])


def _height_and_width_swapped(item: Prepared) -> Prepared:
    return replace(item, position_ids=item.position_ids[[0, 2, 1]])


def _plain_positions(item: Prepared) -> Prepared:
    return replace(item, position_ids=np.tile(np.arange(item.n_tokens, dtype=np.int32), (3, 1)))


def _pictures_mirrored(item: Prepared) -> Prepared:
    return replace(item, visuals=tuple(replace(one, frames=one.frames[:, :, ::-1]) for one in item.visuals))


def _channels_reversed(item: Prepared) -> Prepared:
    return replace(item, visuals=tuple(replace(one, frames=one.frames[..., ::-1]) for one in item.visuals))


def _frames_reversed(item: Prepared) -> Prepared:
    return replace(item, visuals=tuple(replace(one, frames=one.frames[::-1]) for one in item.visuals))


@pytest.mark.parametrize(
    "mutate",
    [
        _without_eos,
        _height_and_width_swapped,
        _plain_positions,
        _pictures_mirrored,
        _channels_reversed,
        _frames_reversed,
    ],
)
def test_a_wrong_input_fails(encoder: Qwen3VLEncoder, mutate: Callable[[Prepared], Prepared]) -> None:
    assert golden_error(encoder, [CASE], [mutate(golden_prepared(CASE))])[0] > FAR
