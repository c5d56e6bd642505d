"""Vectors of the whole path (bytes, preparation, model) equal the official implementation's under float32."""

from __future__ import annotations

import pytest

from pipeline.models.qwen3_vl import Qwen3VLEncoder
from tests.fixtures.golden_cases import EMBED_NAMES, TRUNCATION_NAMES
from tests.fixtures.golden_vectors import golden_error, tiny_encoder

NAMES = [*EMBED_NAMES, *TRUNCATION_NAMES]
LONG = ("frames70_64x64_sampled", "img_1920x1080_down", "vidfile_300f_25fps_320x240")
SHORT = [name for name in NAMES if name not in LONG]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def encoder() -> Qwen3VLEncoder:
    return tiny_encoder()


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_equals_the_official_one(encoder: Qwen3VLEncoder, name: str) -> None:
    assert golden_error(encoder, [name])[0] <= TOLERANCE


def test_many_cases_in_one_call_equal_the_official_vectors_in_any_order(encoder: Qwen3VLEncoder) -> None:
    assert golden_error(encoder, SHORT).max() <= TOLERANCE
    assert golden_error(encoder, SHORT[::-1]).max() <= TOLERANCE


def test_deterministic_and_eager_paths_equal_them_too() -> None:
    names = ["text_cjk", "img_rgba", "mixed_all", "two_videos"]
    assert golden_error(tiny_encoder(deterministic=True), names).max() <= TOLERANCE
    assert golden_error(tiny_encoder(attention="eager"), names).max() <= TOLERANCE


def test_bfloat16_stays_near_the_official_float32() -> None:
    errors = golden_error(tiny_encoder(dtype="bfloat16"), ["text", "img_text", "img_rgba", "mixed_all"])
    # Unit vectors of 64 values of about 0.125: a wrong token or layer is off by more than 0.1 somewhere.
    assert errors.max() < 0.08
