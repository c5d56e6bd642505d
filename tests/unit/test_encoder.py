"""The encoder: the same vectors alone, in company, in any order; loud about weights that do not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from pipeline.checkpoint import resolve_checkpoint
from pipeline.config import ModelConfig
from pipeline.errors import ConfigError
from pipeline.models.qwen3_vl import Qwen3VLEncoder, load_encoder
from pipeline.types import MediaKind, Prepared
from pipeline.window import pack_window, unpack_window
from tests.fixtures.prepared import clip_item, image_item, mixed_item, mixed_items, text_item
from tests.fixtures.tiny_model import tiny_model


def load(path: Path | None = None, **options: object) -> Qwen3VLEncoder:
    model = ModelConfig.model_validate({"path": str(path or tiny_model()), "dtype": "float32"} | options)
    return load_encoder(resolve_checkpoint(model), model, device="cpu")


@pytest.fixture(scope="module")
def encoder() -> Qwen3VLEncoder:
    return load()


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    normalised: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normalised


def alone(encoder: Qwen3VLEncoder, items: Sequence[Prepared]) -> NDArray[np.float32]:
    return np.concatenate([encoder.encode([item]).vectors for item in items])


def stock_vector(encoder: Qwen3VLEncoder, item: Prepared) -> NDArray[np.float32]:
    """The stock forward with its own positions and patches spelt out in NumPy, one item."""
    stock = encoder._stock
    ids = torch.from_numpy(item.input_ids.astype(np.int64))[None]
    kinds = (ids == 151655).int() + 2 * (ids == 151656).int()
    inputs = dict[str, torch.Tensor](input_ids=ids, mm_token_type_ids=kinds, attention_mask=torch.ones_like(ids))
    for prefix, suffix, of_images in (("image", "", True), ("video", "_videos", False)):
        chosen = [one for one in item.visuals if (one.kind is MediaKind.IMAGE) == of_images]
        if chosen:
            patches = [reference_patches(one.frames) for one in chosen]
            inputs[f"pixel_values{suffix}"] = torch.from_numpy(np.concatenate(patches))
            inputs[f"{prefix}_grid_thw"] = torch.tensor([one.grid_thw for one in chosen])
    with torch.inference_mode():
        vector: NDArray[np.float32] = stock(**inputs).last_hidden_state[0, -1:].numpy()
    return vector


def reference_patches(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    if len(frames) == 1:
        frames = np.repeat(frames, 2, axis=0)
    t, height_px, width_px, _ = frames.shape
    blocks = frames.reshape(t // 2, 2, height_px // 32, 2, 16, width_px // 32, 2, 16, 3)
    flat = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 1536)
    return (flat.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)


@pytest.mark.parametrize("make", [lambda: text_item(20), image_item, clip_item, mixed_item])
def test_a_vector_equals_the_stock_forward_with_its_own_positions(encoder: Qwen3VLEncoder, make: object) -> None:
    item = make()  # type: ignore[operator]
    np.testing.assert_allclose(unit(encoder.encode([item]).vectors), unit(stock_vector(encoder, item)), atol=1e-6)


def test_a_batch_gives_the_vectors_of_its_items_alone_in_the_order_given(encoder: Qwen3VLEncoder) -> None:
    items = mixed_items()
    encoded = encoder.encode(items)
    assert encoded.vectors.dtype == np.float32
    assert encoded.vectors.shape == (len(items), encoder.hidden_dim)
    np.testing.assert_allclose(unit(encoded.vectors), unit(alone(encoder, items)), atol=1e-5)


def test_order_and_budget_do_not_matter(encoder: Qwen3VLEncoder) -> None:
    items = mixed_items()
    expected = unit(encoder.encode(items).vectors)
    backwards = unit(encoder.encode(items[::-1]).vectors)[::-1]
    np.testing.assert_allclose(backwards, expected, atol=1e-5)
    for token_budget in (1, 40, 90):
        np.testing.assert_allclose(unit(load(token_budget=token_budget).encode(items).vectors), expected, atol=1e-5)


def test_nothing_is_padded_and_the_packing_is_counted() -> None:
    short, long = text_item(3), text_item(23)
    encoded = load(token_budget=100).encode([short, long])
    assert (encoded.padded_tokens, encoded.forwards) == (0, 1)
    assert encoded.filled == pytest.approx((short.n_tokens + long.n_tokens) / 100)
    alone = load(token_budget=1).encode([short, long])
    assert (alone.padded_tokens, alone.forwards, alone.filled) == (0, 2, 2.0)


def test_deterministic_gives_the_same_bits_in_any_company() -> None:
    encoder = load(deterministic=True)
    items = mixed_items()
    expected = alone(encoder, items)
    np.testing.assert_array_equal(encoder.encode(items).vectors, expected)
    np.testing.assert_array_equal(encoder.encode(items[::-1]).vectors[::-1], expected)


def test_distinct_items_get_distinct_vectors(encoder: Qwen3VLEncoder) -> None:
    vectors = unit(encoder.encode(mixed_items()).vectors)
    cosines = vectors @ vectors.T
    assert np.abs(cosines[~np.eye(len(vectors), dtype=bool)]).max() < 0.99


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_vectors_stay_close_to_float32(encoder: Qwen3VLEncoder, dtype: str) -> None:
    half = load(dtype=dtype)
    assert half.dtype == dtype
    vectors = half.encode(mixed_items()).vectors
    assert vectors.dtype == np.float32
    cosines = np.einsum("ij,ij->i", unit(vectors), unit(encoder.encode(mixed_items()).vectors))
    # Random weights amplify rounding more than trained ones; a wrong layer or token gives far less.
    assert cosines.min() > 0.98
    assert np.median(cosines) > 0.995


def test_no_items_give_no_vectors(encoder: Qwen3VLEncoder) -> None:
    encoded = encoder.encode([])
    assert encoded.vectors.shape == (0, 64)
    assert encoded.padded_tokens == 0


def test_items_read_back_from_a_window_are_encoded_without_a_warning(encoder: Qwen3VLEncoder) -> None:
    items = mixed_items()
    columns = {"id": [item.id for item in items], "fingerprint": ["f"] * len(items), "attempts": [0] * len(items)}
    window = unpack_window(pack_window(pa.table(columns), items, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # of what an earlier test left, if it is collected just now
        vectors = encoder.encode(window.prepared).vectors
    np.testing.assert_allclose(vectors, encoder.encode(items).vectors, atol=1e-6)


def spoilt_model(folder: Path, change: object) -> Path:
    shutil.copytree(tiny_model(), folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)  # type: ignore[operator]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


NORM = "model.language_model.norm.weight"


def test_a_missing_tensor_is_refused_by_name(tmp_path: Path) -> None:
    folder = spoilt_model(tmp_path / "m", lambda tensors: tensors.pop(NORM))
    with pytest.raises(ConfigError, match=r"1 tensors are missing .*language_model.norm.weight"):
        load(folder)


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = spoilt_model(tmp_path / "m", lambda tensors: tensors.update({NORM: np.ones(32, np.float32)}))
    with pytest.raises(ConfigError, match=r"norm.weight|cannot load the model"):
        load(folder)


def test_a_leftover_lm_head_is_ignored(tmp_path: Path, encoder: Qwen3VLEncoder) -> None:
    head = {"lm_head.weight": np.zeros((8, 64), np.float32)}
    folder = spoilt_model(tmp_path / "m", lambda tensors: tensors.update(head))
    item = image_item()
    # Not bit for bit: the head shifts the other tensors in the file, and products depend on where weights lie.
    np.testing.assert_allclose(load(folder).encode([item]).vectors, encoder.encode([item]).vectors, atol=1e-6)


def test_weights_that_give_nan_fail_the_probe(tmp_path: Path) -> None:
    folder = spoilt_model(tmp_path / "m", lambda tensors: tensors.update({NORM: np.full(64, np.nan, np.float32)}))
    with pytest.raises(ConfigError, match="first forward in float32 on cpu is not finite"):
        load(folder)


def test_attention_that_cannot_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="16 bits only"):
        load(attention="flash_attention_2")


def test_eager_attention_agrees_with_sdpa(encoder: Qwen3VLEncoder) -> None:
    eager = load(attention="eager")
    np.testing.assert_allclose(
        unit(eager.encode(mixed_items()).vectors), unit(encoder.encode(mixed_items()).vectors), atol=1e-5
    )


def test_an_encoder_says_what_it_is(encoder: Qwen3VLEncoder) -> None:
    assert (encoder.hidden_dim, encoder.device, encoder.dtype, encoder.token_budget) == (64, "cpu", "float32", 2048)
    assert load(token_budget=77).token_budget == 77


def test_the_model_layer_imports_no_ray_and_no_decoder() -> None:
    script = (
        "import json, sys, pipeline.models.qwen3_vl\n"
        "print(json.dumps([name for name in ('ray', 'av', 'pipeline.decode') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert json.loads(done.stdout) == []


def test_naming_the_encoder_seam_imports_no_torch() -> None:
    script = (
        "import sys, pipeline.models.encoder, pipeline.models.collate, pipeline.models.schedule\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "False"
