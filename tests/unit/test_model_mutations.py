"""The golden comparison can fail: each mistake that a Qwen3-VL port is known for moves vectors far beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.models.qwen3_vl import Qwen3VLEncoder
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


def _prenorm(stock: Any) -> None:
    stock.language_model.norm = torch.nn.Identity()


def _vision_taps_one_layer_late(stock: Any) -> None:
    stock.visual.deepstack_visual_indexes = [index + 1 for index in stock.visual.deepstack_visual_indexes]


def _deepstack_one_decoder_layer_late(stock: Any) -> None:
    add, waiting = stock.language_model._deepstack_process, list[torch.Tensor]()

    def late(hidden: torch.Tensor, mask: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        waiting.append(features)
        return hidden if len(waiting) == 1 else add(hidden, mask, waiting[-2])

    stock.language_model._deepstack_process = late


def _no_deepstack(stock: Any) -> None:
    stock.language_model._deepstack_process = lambda hidden, mask, features: hidden


def _vision_attends_across_nothing(stock: Any) -> None:
    stock.visual.pos_embed.weight.data.zero_()


def _one_decoder_layer_missing(stock: Any) -> None:
    stock.language_model.layers = stock.language_model.layers[:-1]


@pytest.mark.parametrize(
    "mutate",
    [
        _prenorm,
        _vision_taps_one_layer_late,
        _deepstack_one_decoder_layer_late,
        _no_deepstack,
        _vision_attends_across_nothing,
        _one_decoder_layer_missing,
    ],
)
def test_a_wrong_model_fails(encoder: Qwen3VLEncoder, mutate: Callable[[Any], None]) -> None:
    mutate(encoder._stock)
    assert golden_error(encoder, [CASE])[0] > FAR


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
