from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.assembly import modality_of
from pipeline.budget import grid_tokens
from pipeline.config import ImageConfig, InputsConfig, VideoConfig
from pipeline.errors import RejectCode, RejectError
from pipeline.prepare import CONTENT_HASH_CHARS, Preparer, content_hash
from pipeline.template import IMAGE_PAD_ID, VIDEO_PAD_ID
from pipeline.types import LoadedItem, LoadedMedia, MediaKind, Modality, Prepared
from pipeline.visuals import draft_file, fit_files
from tests.fixtures.media import clip, encode_image, encode_video, photo
from tests.fixtures.tokenizer import prompt_tokenizer

SMALL_PICTURE = encode_image(photo(64, 64, 1), "PNG")
IMAGE = LoadedMedia(MediaKind.IMAGE, (SMALL_PICTURE,))
FRAMES = LoadedMedia(MediaKind.FRAMES, (SMALL_PICTURE,) * 3)


@pytest.fixture(scope="module")
def video() -> LoadedMedia:
    """20 frames at 2 a second: ten seconds of 160x96."""
    return LoadedMedia(MediaKind.VIDEO, (encode_video(clip(20, 160, 96, 1), fps=2),))


def prepare(item: LoadedItem, **inputs: object) -> Prepared:
    return Preparer(prompt_tokenizer(), InputsConfig.model_validate(inputs)).prepare(item)


def item(*media: LoadedMedia, texts: tuple[str, ...] = (), **row: Any) -> LoadedItem:
    return replace(LoadedItem("i", texts, media), **row)


def check_whole(prepared: Prepared) -> None:
    """What the encoder relies on."""
    pads = np.isin(prepared.input_ids, (IMAGE_PAD_ID, VIDEO_PAD_ID)).sum()
    assert pads == prepared.n_visual_tokens == sum(grid_tokens(visual.grid_thw) for visual in prepared.visuals)
    assert prepared.position_ids.shape == (3, prepared.n_tokens)
    assert prepared.input_ids.dtype == prepared.position_ids.dtype == np.int32
    for visual in prepared.visuals:
        t, h, w = visual.grid_thw
        frames = 1 if visual.kind is MediaKind.IMAGE else t * 2
        assert visual.frames.shape == (frames, h * 16, w * 16, 3)
        assert visual.frames.dtype == np.uint8


def test_everything_at_once(video: LoadedMedia) -> None:
    prepared = prepare(item(IMAGE, video, FRAMES, texts=("a", "b"), instruction="Find"))
    check_whole(prepared)
    assert [visual.kind for visual in prepared.visuals] == [
        MediaKind.VIDEO,
        MediaKind.FRAMES,
        MediaKind.IMAGE,
    ]
    assert prepared.n_frames == 10 + 4
    assert prepared.modality is Modality.MIXED
    assert not prepared.truncated


def test_row_sampling_wins_over_the_config_for_files_and_not_for_lists(video: LoadedMedia) -> None:
    config = {"video": VideoConfig(fps=1.0, max_frames=64)}
    assert prepare(item(video), **config).n_frames == 10
    assert prepare(item(video, fps=2.0), **config).n_frames == 20
    assert prepare(item(video, max_frames=4), **config).n_frames == 4
    assert prepare(item(FRAMES, max_frames=2), **config).n_frames == 4


def test_a_file_over_the_budget_is_resized_under_total_pixels() -> None:
    wide = LoadedMedia(MediaKind.VIDEO, (encode_video(clip(8, 640, 384, 1), fps=1),))
    as_reference = prepare(item(wide, texts=("t",)), over_length="reference")
    assert as_reference.n_visual_tokens == 4 * 20 * 12
    small = prepare(item(wide, texts=("t",)), max_length=900, video=VideoConfig(total_pixels=800_000))
    check_whole(small)
    assert small.n_frames == 8
    assert small.n_visual_tokens < as_reference.n_visual_tokens
    assert small.truncated  # every frame is there, but smaller than the model would have had it
    assert not as_reference.truncated


def test_a_file_still_over_the_budget_shows_fewer_frames(video: LoadedMedia) -> None:
    prepared = prepare(item(video, texts=("t",)), max_length=320)
    check_whole(prepared)
    assert prepared.n_tokens <= 320
    assert 2 <= prepared.n_frames < 10
    assert prepared.truncated
    shown = prompt_tokenizer().decode(prepared.input_ids)
    assert shown.endswith("t<|im_end|>\n<|im_start|>assistant\n<|endoftext|>")


@pytest.mark.parametrize("over_length", ["reject", "reference"])
def test_a_file_over_the_budget_is_refused_where_nothing_may_differ(video: LoadedMedia, over_length: str) -> None:
    with pytest.raises(RejectError) as error:
        prepare(item(video, texts=("t",)), max_length=320, over_length=over_length)
    assert error.value.code is RejectCode.OVER_LENGTH


def test_two_frames_that_do_not_fit_are_refused(video: LoadedMedia) -> None:
    with pytest.raises(RejectError, match="two video frames need"):
        prepare(item(video), max_length=100)


def test_images_over_the_budget_are_refused_in_every_mode() -> None:
    for over_length in ("truncate", "reject", "reference"):
        with pytest.raises(RejectError) as error:
            prepare(item(*[IMAGE] * 50, texts=("t",)), max_length=200, over_length=over_length)
        assert error.value.code is RejectCode.OVER_LENGTH


def test_several_files_share_the_room(video: LoadedMedia) -> None:
    short = LoadedMedia(MediaKind.VIDEO, (encode_video(clip(4, 160, 96, 2), fps=2),))
    drafts = [draft_file(medium.blobs[0], 1.0, 64) for medium in (video, short, video)]
    fitted, dropped = fit_files(drafts, 1500, 7_864_320)
    assert dropped
    assert sum(draft.cost_tokens for draft in fitted) <= 1500
    assert fitted[1].n_frames == drafts[1].n_frames  # under its share: untouched
    assert fitted[0].n_frames == fitted[2].n_frames < drafts[0].n_frames


@settings(max_examples=60)
@given(
    st.integers(64, 400),
    st.sampled_from(["truncate", "reject", "reference"]),
    st.integers(0, 3),
    st.text(max_size=40),
)
def test_no_prompt_is_longer_than_max_length(max_length: int, mode: str, images: int, text: str) -> None:
    code: RejectCode | None = None
    try:
        prepared = prepare(item(*[IMAGE] * images, texts=(text * 20,)), max_length=max_length, over_length=mode)
    except RejectError as error:
        code = error.code
    else:
        check_whole(prepared)
        assert prepared.n_tokens <= max_length
    assert code in (None, RejectCode.OVER_LENGTH)


def test_exif_turns_images_and_listed_frames_unless_told_not_to() -> None:
    sideways = encode_image(photo(128, 64, 1), "JPEG", orientation=6)
    for kind in (MediaKind.IMAGE, MediaKind.FRAMES):
        turned, plain = (prepare(item(LoadedMedia(kind, (sideways,))), exif=exif) for exif in (True, False))
        assert turned.visuals[0].grid_thw[1] > turned.visuals[0].grid_thw[2]
        assert plain.visuals[0].grid_thw[1] < plain.visuals[0].grid_thw[2]


def test_frames_of_different_sizes_are_refused() -> None:
    other = encode_image(photo(256, 64, 1), "PNG")
    with pytest.raises(RejectError) as error:
        prepare(item(LoadedMedia(MediaKind.FRAMES, (SMALL_PICTURE, other))))
    assert error.value.code is RejectCode.FRAMES_DIFFER


def test_pixel_limits_come_from_the_config() -> None:
    large = LoadedMedia(MediaKind.IMAGE, (encode_image(photo(640, 640, 1), "PNG"),))
    assert prepare(item(large)).n_visual_tokens == 400
    assert prepare(item(large), image=ImageConfig(max_pixels=65_536)).n_visual_tokens == 64


def test_broken_media_keep_their_own_reject_code() -> None:
    with pytest.raises(RejectError) as error:
        prepare(item(LoadedMedia(MediaKind.IMAGE, (SMALL_PICTURE[:100],))))
    assert error.value.code is RejectCode.IMAGE_UNREADABLE


@pytest.mark.parametrize(
    ("texts", "media", "modality"),
    [
        ((), (), Modality.TEXT),
        (("t",), (), Modality.TEXT),
        ((), (IMAGE, IMAGE), Modality.IMAGE),
        (("",), (IMAGE,), Modality.IMAGE),
        (("t",), (IMAGE,), Modality.MIXED),
        ((), (FRAMES,), Modality.VIDEO),
        ((), (FRAMES, IMAGE), Modality.MIXED),
    ],
)
def test_modalities(texts: tuple[str, ...], media: tuple[LoadedMedia, ...], modality: Modality) -> None:
    assert modality_of(texts, media) is modality


def test_the_content_hash_tells_items_apart_exactly_where_their_vectors_may_differ(
    video: LoadedMedia,
) -> None:
    base = item(IMAGE, texts=("a", "b"))
    same = [replace(base, id="other"), replace(base, texts=("ab",)), replace(base, fps=3.0)]
    assert {prepare(one).content_hash for one in [base, *same]} == {prepare(base).content_hash}
    others = [
        base,
        replace(base, texts=("ab ",)),
        replace(base, instruction="Find"),
        replace(base, media=(IMAGE, IMAGE)),
        replace(base, media=(LoadedMedia(MediaKind.FRAMES, (SMALL_PICTURE,)),)),
        item(video),
        item(video, fps=2.0),
        item(video, max_frames=4),
    ]
    hashes = {prepare(one).content_hash for one in others}
    assert len(hashes) == len(others)
    assert all(len(value) == CONTENT_HASH_CHARS for value in hashes)


@given(
    st.lists(st.binary(max_size=4), min_size=1, max_size=4),
    st.lists(st.binary(max_size=4), min_size=1, max_size=4),
)
def test_content_hashes_do_not_depend_on_where_parts_join(first: list[bytes], second: list[bytes]) -> None:
    hashes = [
        content_hash("", "", [LoadedMedia(MediaKind.FRAMES, tuple(blobs))], (1.0, 64)) for blobs in (first, second)
    ]
    assert (hashes[0] == hashes[1]) == (first == second)


def test_preparation_imports_no_torch() -> None:
    program = "import sys, pipeline.prepare, pipeline.render; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_variable_rate_file_is_stamped_with_real_times() -> None:
    # Four frames in the first 0.3 s, then one each 2 s: the grid of the mean rate would put the second patch earlier.
    pts_ms = [0, 100, 200, 300, 2300, 4300, 6300, 8300]
    data = encode_video(clip(8, 160, 96, 3), container="mkv", fps=10, pts_ms=pts_ms)
    prepared = prepare(item(LoadedMedia(MediaKind.VIDEO, (data,))), video=VideoConfig(max_frames=4))
    shown = prompt_tokenizer().decode(prepared.input_ids)
    # Targets 0, 2.77, 5.53 and 8.3 s are nearest to the frames at 0, 2.3, 6.3 and 8.3 s.
    assert [stamp in shown for stamp in ("<1.1 seconds>", "<7.3 seconds>")] == [True, True]
