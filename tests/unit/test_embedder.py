"""The library: official dictionaries in, unit vectors out, the corpus's own; failures are named, never dropped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

import pipeline
from pipeline.config import FetchConfig, InputsConfig
from pipeline.embedder import Embedder, EmbedError
from pipeline.errors import ConfigError, RejectCode
from tests.fixtures.golden_cases import formula_image, golden_embed, png
from tests.fixtures.media import encode_video
from tests.fixtures.tiny_model import tiny_model


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    with Embedder(str(tiny_model()), dtype="float32") as made:
        yield made


def official(name: str) -> Any:
    return np.array(golden_embed(name)["embedding"])


def test_texts_and_images_get_the_official_vectors(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(200, 150, 1))
    picture = Image.fromarray(formula_image(200, 150, 1))
    items: list[dict[str, Any]] = [
        {},
        {"text": ""},
        {"text": "hello world", "instruction": "Retrieve images or text relevant to the query"},
        {"image": str(tmp_path / "a.png")},
        {"image": (tmp_path / "a.png").as_uri()},
        {"image": tmp_path / "a.png"},
        {"image": png(200, 150, 1)},
        {"image": picture},
        {"text": "a caption", "image": [picture], "video": None},
        {"image": [picture, png(64, 96, 7)], "text": ["first", "second"]},
    ]
    names = ["null", "empty_text", "text_instr_nopunct", *["img_200x150"] * 5, "img_text", "multi_img_multi_text"]
    vectors = embedder.embed(items)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(items), embedder.dim)
    for vector, name in zip(vectors, names, strict=True):
        np.testing.assert_allclose(vector, official(name), atol=1e-5, err_msg=name)


def test_pillow_modes_give_what_their_files_give(embedder: Embedder) -> None:
    rgba = Image.fromarray(formula_image(100, 100, 5, "RGBA"))
    grey = Image.fromarray(formula_image(64, 96, 6, "L"))
    vectors = embedder.embed([{"image": rgba}, {"image": grey}])
    np.testing.assert_allclose(vectors, [official("img_rgba"), official("img_L")], atol=1e-5)


def test_a_pillow_image_keeps_its_exif_orientation(embedder: Embedder, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(formula_image(96, 64, 1)).save(path, exif=exif)
    with Image.open(path) as opened:
        by_object, by_path, upright = embedder.embed(
            [{"image": opened}, {"image": str(path)}, {"image": png(96, 64, 1)}]
        )
    np.testing.assert_allclose(by_object, by_path, atol=1e-6)
    assert np.abs(by_object - upright).max() > 1e-3


def test_videos_come_as_files_and_as_frames(embedder: Embedder, tmp_path: Path) -> None:
    frames = [formula_image(64, 64, seed) for seed in range(4)]
    clip = encode_video(frames, container="mp4", codec="h264", fps=2)
    (tmp_path / "clip.mp4").write_bytes(clip)
    for seed, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{seed}.png")
    paths = [str(tmp_path / f"{seed}.png") for seed in range(4)]
    vectors = embedder.embed(
        [
            {"video": str(tmp_path / "clip.mp4")},
            {"video": clip},
            {"video": [clip, clip]},
            {"video": clip, "fps": 2.0, "max_frames": 2},
            {"video": paths},
            {"video": [Image.fromarray(frame) for frame in frames]},
        ]
    )
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    np.testing.assert_allclose(vectors[4], vectors[5], atol=1e-6)
    for other in (2, 3, 4):
        assert np.abs(vectors[0] - vectors[other]).max() > 1e-3


def test_vectors_have_unit_norm_and_any_order(embedder: Embedder) -> None:
    items = [{"text": "word " * n} for n in (1, 40, 3, 90)]
    vectors = embedder.embed(items)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(items[::-1])[::-1], vectors, atol=1e-5)
    assert embedder.embed([]).shape == (0, 64)


def test_every_failed_item_is_named_by_its_index(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(png(40, 40, 1)[:100])
    items = [{"text": "fine"}] * 70 + [{"image": str(tmp_path / "absent.png")}, {"image": str(tmp_path / "bad.png")}]
    items[3] = {"image": "https://example.invalid/a.png"}
    with pytest.raises(EmbedError, match=r"3 of 72 items got no vector: items\[3\]: URI_NOT_ALLOWED") as caught:
        embedder.embed(items)
    assert {index: reject.code for index, reject in caught.value.failures.items()} == {
        3: RejectCode.URI_NOT_ALLOWED,
        70: RejectCode.NOT_FOUND,
        71: RejectCode.IMAGE_UNREADABLE,
    }
    assert all(reject.id == str(index) for index, reject in caught.value.failures.items())


def test_dim_instruction_and_inputs_are_applied() -> None:
    options: dict[str, Any] = {"dtype": "float32", "dim": 16, "inputs": InputsConfig(max_length=64)}
    with Embedder(str(tiny_model()), instruction="Find it!", **options) as short:
        assert (short.dim, short.device) == (16, "cpu")
        default, own = short.embed([{"text": "你好"}, {"text": "你好", "instruction": "检索相关图片。"}])
        long = short.embed([{"text": "word " * 5000}])
    cut = official("text_instr_cjk")[:16]
    np.testing.assert_allclose(own, cut / np.linalg.norm(cut), atol=1e-5)
    assert np.abs(default - own).max() > 1e-3
    assert long.shape == (1, 16)


def test_local_roots_of_the_caller_hold(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        (folder / "a.png").write_bytes(png(64, 64, 1))
    fetch = FetchConfig(local_roots=(str(tmp_path / "in"),))
    with Embedder(str(tiny_model()), dtype="float32", fetch=fetch) as bounded:
        assert bounded.embed([{"image": str(tmp_path / "in" / "a.png")}]).shape == (1, 64)
        with pytest.raises(EmbedError, match="URI_NOT_ALLOWED"):
            bounded.embed([{"image": str(tmp_path / "a.png")}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 65}, "dim 65, but the model's vectors have 64"),
        ({"dtype": "int4"}, "dtype"),
        ({"device": "cuda:99"}, "is not there"),
    ],
)
def test_options_that_cannot_be_are_config_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Embedder(str(tiny_model()), **options)


def test_torch_and_decoders_never_share_a_process() -> None:
    script = (
        "import io, sys\n"
        "from pipeline import Embedder\n"
        f"with Embedder({str(tiny_model())!r}, dtype='float32') as embedder:\n"
        f"    embedder.embed([{{'image': {png(64, 64, 1)!r}}}])\n"
        "    pool = embedder._pool._pool._started()\n"
        "    there = pool.schedule(eval, args=(\"sorted(__import__('sys').modules)\",)).result()\n"
        "print('torch' in sys.modules, 'av' in sys.modules, 'pipeline.decode.image' in sys.modules)\n"
        "print('torch' in there, 'av' in there, 'pipeline.decode.image' in there)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.splitlines() == ["True False False", "False True True"]


NAN_TOKEN = 8849
"""Some token of the vocabulary whose embedding a test spoils."""


def test_a_vector_that_is_not_finite_is_a_failure_of_its_item(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.embed_tokens.weight"][NAN_TOKEN] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    word = Tokenizer.from_file(str(folder / "tokenizer.json")).decode([NAN_TOKEN])
    with Embedder(str(folder), dtype="float32") as spoilt:
        with pytest.raises(EmbedError, match=r"1 of 2 items got no vector: items\[1\]: NON_FINITE") as caught:
            spoilt.embed([{"text": "fine"}, {"text": word}])
        assert {index: reject.id for index, reject in caught.value.failures.items()} == {1: "1"}
        assert np.isfinite(spoilt.embed([{"text": "fine"}])).all()


def test_the_package_offers_the_embedder_lazily() -> None:
    assert pipeline.Embedder is Embedder
