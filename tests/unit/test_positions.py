from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3VLConfig, Qwen3VLModel

from pipeline.positions import mrope_positions
from pipeline.template import IMAGE_PAD_ID, VIDEO_PAD_ID

VISION_START, VISION_END, WORD = 151652, 151653, 100

# A visual: (is a video, (temporal patches, rows, columns of merged patches), words before it).
VISUALS = st.lists(
    st.tuples(st.booleans(), st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)), st.integers(0, 5)),
    max_size=5,
)


def prompt_of(visuals: list[Any], tail: int) -> tuple[np.ndarray, list[tuple[int, int, int]], list[bool]]:
    ids: list[int] = [WORD]
    grids, kinds = [], []
    for is_video, (t, h, w), words in visuals:
        t = t if is_video else 1
        pad = VIDEO_PAD_ID if is_video else IMAGE_PAD_ID
        ids += [WORD] * words
        for _ in range(t):
            ids += [WORD] * 3 if is_video else []
            ids += [VISION_START, *[pad] * (h * w), VISION_END]
        grids.append((t, h * 2, w * 2))
        kinds.append(is_video)
    return np.array(ids + [WORD] * tail, np.int32), grids, kinds


@pytest.fixture(scope="module")
def oracle() -> Qwen3VLModel:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    config = Qwen3VLConfig(
        text_config={**small, "intermediate_size": 8, "head_dim": 8, "vocab_size": 8},
        vision_config={
            "depth": 1,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_heads": 1,
            "out_hidden_size": 8,
        },
    )
    with torch.device("meta"):
        return Qwen3VLModel(config)


@settings(max_examples=150)
@given(visuals=VISUALS, tail=st.integers(1, 9))
def test_positions_equal_those_of_transformers(oracle: Qwen3VLModel, visuals: list[Any], tail: int) -> None:
    ids, grids, kinds = prompt_of(visuals, tail)
    types = np.where(ids == IMAGE_PAD_ID, 1, np.where(ids == VIDEO_PAD_ID, 2, 0))
    images = [grid for grid, is_video in zip(grids, kinds, strict=True) if not is_video]
    videos = [grid for grid, is_video in zip(grids, kinds, strict=True) if is_video]
    want, _ = oracle.get_rope_index(
        input_ids=torch.tensor(ids[None].astype(np.int64)),
        mm_token_type_ids=torch.tensor(types[None]),
        image_grid_thw=torch.tensor(images) if images else None,
        video_grid_thw=torch.tensor(videos) if videos else None,
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
    )
    positions = mrope_positions(ids, grids)
    assert positions.dtype == np.int32
    assert positions.tolist() == want[:, 0].tolist()


@given(st.integers(0, 50))
def test_text_counts_up_on_all_axes(length: int) -> None:
    ids = np.full(length, WORD, np.int32)
    assert mrope_positions(ids, []).tolist() == [list(range(length))] * 3


def test_an_image_holds_time_still_and_moves_on_by_its_longer_side() -> None:
    ids = np.array([WORD, VISION_START, *[IMAGE_PAD_ID] * 6, VISION_END], np.int32)
    temporal, height, width = mrope_positions(ids, [(1, 4, 6)]).tolist()
    assert temporal == [0, 1, 2, 2, 2, 2, 2, 2, 5]
    assert height == [0, 1, 2, 2, 2, 3, 3, 3, 5]
    assert width == [0, 1, 2, 3, 4, 2, 3, 4, 5]


def test_pads_that_no_grid_explains_are_a_bug() -> None:
    with pytest.raises(ValueError, match="do not match the grids"):
        mrope_positions(np.array([IMAGE_PAD_ID], np.int32), [])
