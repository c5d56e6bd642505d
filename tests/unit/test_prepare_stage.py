"""Windows out of a block: closed by bytes or tokens, every item once, one item's failure its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from pipeline.errors import RejectCode, RejectError
from pipeline.manifest.work import to_work_table
from pipeline.stages.prepare import windows
from pipeline.types import LoadedItem, MediaKind, Modality, Prepared, Visual, WorkItem
from pipeline.window import unpack_window
from tests.fixtures.jobs import ROOT

PIXELS = np.zeros((1, 32, 32, 3), np.uint8)


def work(n: int) -> list[WorkItem]:
    return [WorkItem(f"i{k}", ("t",), (), None, None, None, f"f{k}", "m.parquet", k, 0) for k in range(n)]


def prepare(item: LoadedItem) -> Prepared:
    visual = Visual(MediaKind.IMAGE, PIXELS, (1, 2, 2))
    ids = np.zeros(10, np.int32)
    return Prepared(item.id, ids, np.zeros((3, 10), np.int32), (visual,), Modality.IMAGE, 1, 0, False, item.id)


def loaded(items: list[WorkItem]) -> Iterator[tuple[WorkItem, LoadedItem | RejectError]]:
    for item in items:
        yield item, LoadedItem(item.id, item.texts, ())


@pytest.mark.parametrize(
    ("max_bytes", "max_tokens", "sizes"),
    [(3 * PIXELS.nbytes, 10**9, [3, 3, 1]), (10**9, 20, [2, 2, 2, 1]), (1, 1, [1] * 7), (10**9, 10**9, [7])],
)
def test_windows_close_at_their_bounds(max_bytes: int, max_tokens: int, sizes: list[int]) -> None:
    items = work(7)
    made = [unpack_window(w) for w in windows(to_work_table(items), loaded(items), prepare, max_bytes, max_tokens)]
    assert [len(window.prepared) for window in made] == sizes
    ids = [name for window in made for name in window.facts.column("id").to_pylist()]
    assert ids == [item.id for item in items]
    assert pa.concat_tables([window.facts for window in made]).column("fingerprint").to_pylist()[3] == "f3"


def test_no_failure_of_one_item_touches_another() -> None:
    items = work(5)

    def failing(item: LoadedItem) -> Prepared:
        if item.id == "i1":
            raise RejectError(RejectCode.IMAGE_UNREADABLE, "broken")
        if item.id == "i2":
            raise ZeroDivisionError("a defect of ours at 0x7f00")
        if item.id == "i3":
            raise MemoryError
        return prepare(item)

    [window] = [unpack_window(w) for w in windows(to_work_table(items), loaded(items), failing, 10**9, 10**9)]
    codes = window.facts.column("code").to_pylist()
    assert codes == [None, "IMAGE_UNREADABLE", "PREPARE_FAILED", "PREPARE_FAILED", None]
    assert window.facts.column("detail").to_pylist()[2] == "ZeroDivisionError: a defect of ours"


DECODES = """
import sys
from pathlib import Path
from pipeline.config import InputsConfig
from pipeline.manifest.work import to_work_table
from pipeline.prepare import Preparer
from pipeline.stages.prepare import windows
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, WorkItem
folder = Path(sys.argv[1])
media = (
    LoadedMedia(MediaKind.VIDEO, ((folder / "clip").read_bytes(),)),
    LoadedMedia(MediaKind.IMAGE, ((folder / "photo").read_bytes(),)),
)
item = WorkItem("i", ("text",), (), None, None, None, "f", "m", 0, 0)
got = iter([(item, LoadedItem("i", ("text",), media))])
preparer = Preparer(PromptTokenizer(Path(sys.argv[2])), InputsConfig())
[window] = windows(to_work_table([item]), got, preparer.prepare, 1 << 30, 1 << 30)
assert window.column("items")[0].values.field("code").null_count == 1
sys.exit(bool({"torch", "torchvision", "transformers"} & sys.modules.keys()))
"""


def test_a_preparer_that_decoded_everything_has_not_met_torch(tmp_path_factory: pytest.TempPathFactory) -> None:
    from tests.fixtures.media import clip, encode_image, encode_video, photo
    from tests.fixtures.tokenizer import cached_tokenizer

    folder = tmp_path_factory.mktemp("media")
    (folder / "clip").write_bytes(encode_video(clip(8, 64, 64, 1), container="mp4", codec="h264", fps=4))
    (folder / "photo").write_bytes(encode_image(photo(64, 64, 2), "jpeg"))
    done = subprocess.run(
        [sys.executable, "-c", DECODES, str(folder), str(cached_tokenizer())],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
