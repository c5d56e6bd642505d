"""Windows out of a block: closed by bytes or tokens, every item once, one item's failure its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import to_work_table
from pipeline.stages.prepare import windows
from pipeline.stages.window_limits import WindowLimits
from pipeline.types import LoadedItem, MediaKind, Modality, Prepared, Visual, WorkItem
from pipeline.window import unpack_window
from tests.fixtures.jobs import ROOT
from tests.fixtures.media import clip, encode_image, encode_video, photo
from tests.fixtures.tokenizer import cached_tokenizer

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


def work(n: int) -> list[WorkItem]:
    return [WorkItem(f"i{k}", ("t",), (), None, None, None, f"f{k}", "m.parquet", k, 0) for k in range(n)]


def prepare(item: LoadedItem) -> Prepared:
    visual = Visual(MediaKind.IMAGE, PIXELS, (1, 2, 2))
    ids = np.zeros(10, np.int32)
    return Prepared(item.id, ids, np.zeros((3, 10), np.int32), (visual,), Modality.IMAGE, 1, 0, False, item.id)


def made(items: list[WorkItem]) -> Iterator[tuple[WorkItem, Prepared | RejectError]]:
    for item in items:
        yield item, prepare(LoadedItem(item.id, item.texts, ()))


@pytest.mark.parametrize(
    ("max_bytes", "max_tokens", "sizes"),
    [(3 * PIXELS.nbytes, 10**9, [3, 3, 1]), (10**9, 20, [2, 2, 2, 1]), (1, 1, [1] * 7), (10**9, 10**9, [7])],
)
def test_windows_close_at_their_bounds(max_bytes: int, max_tokens: int, sizes: list[int]) -> None:
    items = work(7)
    found = [unpack_window(w) for w in windows(to_work_table(items), made(items), WindowLimits(max_bytes, max_tokens))]
    assert [len(window.prepared) for window in found] == sizes
    ids = [name for window in found for name in window.facts.column("id").to_pylist()]
    assert ids == [item.id for item in items]
    assert pa.concat_tables([window.facts for window in found]).column("fingerprint").to_pylist()[3] == "f3"


def test_a_reject_travels_among_the_others() -> None:
    items = work(3)
    refused = RejectError(RejectCode.IMAGE_UNREADABLE, "broken")
    mixed = ((item, refused if item.id == "i1" else got) for item, got in made(items))
    [window] = [unpack_window(w) for w in windows(to_work_table(items), mixed, WindowLimits(10**9, 10**9))]
    assert window.facts.column("code").to_pylist() == [None, "IMAGE_UNREADABLE", None]
    assert window.facts.column("detail").to_pylist() == [None, "broken", None]


PREPARES = """
import sys
from functools import partial
from pathlib import Path
from pipeline.config import DecodeConfig, InputsConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.manifest.work import to_work_table
from pipeline.preparation import Preparation
from pipeline.stages.prepare import Preparer, PromptTokenizer, windows
from pipeline.stages.window_limits import WindowLimits
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, WorkItem
folder = Path(sys.argv[1])
media = (
    LoadedMedia(MediaKind.VIDEO, ((folder / "clip").read_bytes(),)),
    LoadedMedia(MediaKind.IMAGE, ((folder / "photo").read_bytes(),)),
)
item = WorkItem("i", ("text",), (), None, None, None, "f", "m", 0, 0)
preparer = Preparer(PromptTokenizer(Path(sys.argv[2])), InputsConfig())
with DecodePool(partial(equip_drafter, InputsConfig(), DecodeConfig())) as pool:
    made = Preparation(pool).many([(item, LoadedItem("i", ("text",), media), preparer)])
    [window] = windows(to_work_table([item]), made, WindowLimits(1 << 30, 1 << 30))
assert window.column("items")[0].values.field("code").null_count == 1
assert len(window.column("visuals")[0]) == 2
sys.exit(bool({"torch", "torchvision", "transformers", "av", "PIL", "simplejpeg"} & sys.modules.keys()))
"""


def test_an_actor_that_prepared_everything_has_met_neither_torch_nor_a_decoder(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(encode_video(clip(8, 64, 64, 1), container="mp4", codec="h264", fps=4))
    (tmp_path / "photo").write_bytes(encode_image(photo(64, 64, 2), "jpeg"))
    done = subprocess.run(
        [sys.executable, "-c", PREPARES, str(tmp_path), str(cached_tokenizer())],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
