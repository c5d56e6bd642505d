"""Parity: agreement on every built-in sample, and disagreement that shows where our path is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from pipeline.errors import ConfigError
from pipeline.models.patches import patchify_blocks
from pipeline.official import OfficialItem
from pipeline.parity import TOLERANCE, ParityRow, run_parity
from pipeline.parity_samples import SAMPLES, Sample, as_item
from tests.fixtures.tiny_model import tiny_model

TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif part.type == 'video' %}{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


FEW = tuple(sample for sample in SAMPLES if sample.name in ("English", "image scaled up", "frame list and image"))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.parity.SAMPLES", FEW)


def test_both_paths_agree_on_every_sample() -> None:
    rows = run_parity(str(tiny_model()))
    assert [row.sample for row in rows] == [sample.name for sample in SAMPLES]
    for row in rows:
        assert row.ok, row
        assert row.cosine > 1 - 1e-6


def test_a_checkpoint_with_a_chat_template_is_asked_through_it(few: None, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model(), tmp_path / "m")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TEMPLATE}))
    assert all(row.ok for row in run_parity(str(folder)))

    spoilt = TEMPLATE.replace("assistant", "user")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": spoilt}))
    assert not any(row.ids_equal for row in run_parity(str(folder)))


def test_mirrored_pictures_fail_on_pictures_alone(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def mirrored(blocks: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return patchify_blocks(blocks.flip(3), dtype)

    monkeypatch.setattr("pipeline.models.vision.patchify_blocks", mirrored)
    rows = run_parity(str(tiny_model()))
    assert {row.sample for row in rows if not row.ok} == {"image scaled up", "frame list and image"}
    assert all(row.ids_equal for row in rows)


def test_another_prompt_fails_on_the_ids(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoken_to(sample: Sample) -> OfficialItem:
        return replace(as_item(sample), instruction="Another instruction")

    monkeypatch.setattr("pipeline.parity.as_item", spoken_to)
    assert not any(row.ids_equal or row.ok for row in run_parity(str(tiny_model())))


@pytest.mark.parametrize("extra_px", [0, 32])
def test_qwen_vl_utils_is_a_witness_of_image_sizes_where_it_is_there(
    few: None, monkeypatch: pytest.MonkeyPatch, extra_px: int
) -> None:
    def sized(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
        taller, wide = smart_resize(height, width, factor, min_pixels, max_pixels)
        return taller + extra_px, wide

    witness = ModuleType("qwen_vl_utils.vision_process")
    witness.smart_resize = sized  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", ModuleType("qwen_vl_utils"))
    monkeypatch.setitem(sys.modules, "qwen_vl_utils.vision_process", witness)
    bad = {row.sample for row in run_parity(str(tiny_model())) if not row.ids_equal}
    assert bad == ({"image scaled up", "frame list and image"} if extra_px else set())


def test_a_row_is_ok_only_with_equal_ids_and_within_the_tolerance() -> None:
    assert ParityRow("a", ids_equal=True, max_abs=TOLERANCE, cosine=1.0).ok
    assert not ParityRow("a", ids_equal=True, max_abs=2 * TOLERANCE, cosine=1.0).ok
    assert not ParityRow("a", ids_equal=False, max_abs=0.0, cosine=1.0).ok


def test_a_model_that_is_not_there_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        run_parity(str(tmp_path / "absent"))
