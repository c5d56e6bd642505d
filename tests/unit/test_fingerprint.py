"""Fingerprints tell apart what differs, and never change by accident."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import InputsConfig, ModelConfig
from pipeline.fingerprint import compute_fingerprint, item_fingerprint
from pipeline.types import MediaKind

TEXT = st.text("ab:[]0123\x00\ud800é", max_size=5)
IDENTITY = st.lists(TEXT, max_size=3).map(tuple)
MEDIA = st.lists(st.tuples(st.sampled_from(MediaKind), st.lists(IDENTITY, max_size=2).map(tuple)), max_size=2).map(
    tuple
)
ITEM = st.fixed_dictionaries(
    {
        "compute": TEXT,
        "instruction": TEXT,
        "fps": st.none() | st.sampled_from([0.5, 1.0, 10.0]),
        "max_frames": st.none() | st.integers(2, 11),
        "texts": st.lists(TEXT, max_size=3).map(tuple),
        "media": MEDIA,
    }
)


def of(item: dict[str, Any]) -> str:
    return item_fingerprint(item["compute"], **{name: value for name, value in item.items() if name != "compute"})


@given(ITEM, ITEM)
def test_items_have_one_fingerprint_exactly_if_they_are_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert (of(a) == of(b)) == (a == b)


@given(ITEM, st.data())
def test_every_field_counts(item: dict[str, Any], data: st.DataObject) -> None:
    for name in item:
        other = item | {name: data.draw(ITEM)[name]}
        assert (of(other) == of(item)) == (other[name] == item[name])


NEAR: list[dict[str, Any]] = [
    {"texts": ["ab", ""]}, {"texts": ["a", "b"]}, {"texts": ["ab"]}, {"texts": []}, {"texts": [""]},
    {"media": [(MediaKind.IMAGE, [("a",)])]}, {"media": [(MediaKind.FRAMES, [("a",)])]},
    {"media": [(MediaKind.IMAGE, [("a",), ("b",)])]}, {"media": [(MediaKind.IMAGE, [("a", "b")])]},
    {"media": [(MediaKind.IMAGE, [("a",)]), (MediaKind.IMAGE, [("b",)])]},
    {"fps": 1.0}, {"max_frames": 10}, {"fps": 1.0, "max_frames": 10}, {"instruction": "1.0"},
]  # fmt: skip


def test_near_misses_differ() -> None:
    base: dict[str, Any] = {
        "compute": "c",
        "instruction": "",
        "fps": None,
        "max_frames": None,
        "texts": [],
        "media": [],
    }
    assert len({of(base | change) for change in NEAR}) == len(NEAR)


MODEL = ModelConfig(path="m")


def compute(**inputs: Any) -> str:
    return compute_fingerprint(model_identity="m", model=MODEL, template_version="t/1", inputs=InputsConfig(**inputs))


@pytest.mark.parametrize(
    "inputs",
    [
        {"instruction": "Find."}, {"max_length": 4096}, {"over_length": "reject"}, {"exif": False},
        {"control_tokens": "reference"}, {"image": {"max_pixels": 1 << 20}}, {"image": {"resize": "fast"}},
        {"video": {"fps": 2}}, {"video": {"max_frames": 32}}, {"video": {"total_pixels": 1 << 20}},
    ],
)  # fmt: skip
def test_what_decides_vectors_counts(inputs: dict[str, Any]) -> None:
    assert compute(**inputs) != compute()


@pytest.mark.parametrize("inputs", [{"dedupe": False}, {"identity": "trust"}])
def test_what_saves_work_does_not(inputs: dict[str, Any]) -> None:
    assert compute(**inputs) == compute()


def test_of_the_model_the_identity_and_the_dtype_count() -> None:
    def of_model(identity: str = "m", **model: Any) -> str:
        config = ModelConfig(**{"path": "m", **model})
        return compute_fingerprint(model_identity=identity, model=config, template_version="t/1", inputs=InputsConfig())

    same: list[dict[str, Any]] = [
        {"path": "elsewhere"},
        {"token_budget": 9},
        {"deterministic": True},
        {"strict_rounding": True},
        {"attention": "eager"},
    ]
    assert {of_model(**model) for model in same} == {of_model()}
    assert len({of_model(), of_model("n"), of_model(dtype="float32")}) == 3


def test_golden_values() -> None:
    """These are stored in every index: a change here re-embeds every lake, so it must be meant."""
    assert compute(instruction="Represent it.") == "b0f4b8ce26312865239e3e4fdf53b54f"
    item = item_fingerprint(
        "c", instruction="Find.", fps=2.0, max_frames=8, texts=["a", "ü"],
        media=[(MediaKind.VIDEO, [("uri", "s3://b/v.mp4")]), (MediaKind.FRAMES, [("bytes", "00"), ("bytes", "01")])],
    )  # fmt: skip
    assert item == "944f99ea7256be889f7a74b70920e162"


def test_other_processes_agree() -> None:
    code = (
        "from pipeline.config import *; from pipeline.fingerprint import *;"
        "print(compute_fingerprint(model_identity='m', model=ModelConfig(path='m'), template_version='t/1',"
        " inputs=InputsConfig()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": "."},
    )
    assert run.stdout.strip() == compute()
