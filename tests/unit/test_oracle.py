"""Sampling and sizing held equal to qwen-vl-utils 0.0.14 on a hundred thousand random cases."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from pipeline import budget
from pipeline.errors import RejectError
from pipeline.sampling import frame_count, list_sample, sample_video
from tests.fixtures.oracle import run_oracle

SEED = 20260119

RESIZE_SCRIPT = """
results = []
for height, width, factor, least, most in arguments:
    try:
        size = vision_process.smart_resize(height, width, factor, least, most)
    except ValueError:
        size = (0, 0)
    results.append([0, 0] if 0 in size else list(size))
print(json.dumps(results))
"""

VIDEO_SCRIPT = """
import types
import numpy as np
# Only shapes matter: pictures are views of one zero, and a stack of them is a shape.
calls = []
def picture(element, patch):
    factor = patch * 2
    size = vision_process.smart_resize(*element["image"], factor, 4 * factor**2, 16384 * factor**2)
    return np.broadcast_to(np.uint8(0), (*size, 1))
def resize(video, size, **_):
    calls.append(size)
    return types.SimpleNamespace(float=lambda: None)
vision_process.fetch_image = picture
vision_process.np = types.SimpleNamespace(array=lambda image: image)
vision_process.torch = types.SimpleNamespace(
    from_numpy=lambda array: array,
    stack=lambda arrays: types.SimpleNamespace(shape=(len(arrays), *arrays[0].shape)))
vision_process.len = lambda value: value.shape[0] if hasattr(value, "shape") else len(value)
vision_process.transforms.functional = types.SimpleNamespace(resize=resize)
vision_process.get_video_reader_backend = lambda: "stub"
vision_process.VIDEO_READER_BACKENDS["stub"] = lambda element: (
    types.SimpleNamespace(shape=(element["shape"][0], 3, *element["shape"][1:])), {}, 2.0)
for kind, n_frames, height, width, total in arguments:
    if kind == "list":
        video = [(height, width)] * n_frames
        vision_process.fetch_video({"video": video, "total_pixels": total}, image_patch_size=16)
    else:
        vision_process.fetch_video({"video": "file", "shape": (n_frames, height, width)}, image_patch_size=16)
print(json.dumps(calls))
"""

SAMPLE_SCRIPT = """
import hashlib
digest = hashlib.sha256()
counts = []
for total, video_fps, fps, most in arguments:
    try:
        count = vision_process.smart_nframes({"fps": fps, "max_frames": most}, total, video_fps)
    except ValueError:
        count = 0
    counts.append(count)
    if count:
        digest.update(torch.linspace(0, total - 1, count).round().long().numpy().astype("<i8").tobytes())
print(json.dumps([counts, digest.hexdigest()]))
"""


def side(rng: random.Random) -> int:
    return int(2 ** rng.uniform(0, 14))


def resize_cases(rng: random.Random, count: int) -> list[tuple[int, int, int, int, int]]:
    cases = []
    for _ in range(count):
        factor = rng.choice([32, 64])
        least = rng.randint(1, 200) * factor**2
        most = least + int(2 ** rng.uniform(0, 24))
        cases.append((side(rng), side(rng), factor, least, most))
    return cases


def our_size(height: int, width: int, factor: int, least: int, most: int) -> list[int]:
    try:
        return list(budget.smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most))
    except RejectError:
        return [0, 0]


def test_sizes() -> None:
    cases = resize_cases(random.Random(SEED), 60_000)
    ours = [our_size(*case) for case in cases]
    assert ours == run_oracle(RESIZE_SCRIPT, cases)
    assert sum(size == [0, 0] for size in ours) > 100  # both reasons to refuse are among the cases
    assert sum(size != [0, 0] for size in ours) > 40_000


def test_frame_counts_and_indices() -> None:
    rng = random.Random(SEED + 1)
    cases = [
        (
            rng.randint(1, rng.choice([8, 300, 5000, 200_000])),
            rng.choice([12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0, rng.uniform(1, 240)]),
            rng.choice([0.1, 0.5, 1.0, 2.0, rng.uniform(0.01, 30)]),
            rng.randint(1, 64) if rng.random() < 0.9 else rng.randint(64, 768),
        )
        for _ in range(40_000)
    ]
    digest = hashlib.sha256()
    counts = []
    for total, video_fps, fps, most in cases:
        try:
            count = frame_count(total, video_fps, fps, most)
        except RejectError:
            counts.append(0)
            continue
        counts.append(count)
        # A still clock: without times of its own a clip is sampled on the grid of its rate.
        indices = sample_video(np.broadcast_to(0.0, total), video_fps, fps, most).indices
        digest.update(indices.astype("<i8").tobytes())
    assert [counts, digest.hexdigest()] == run_oracle(SAMPLE_SCRIPT, cases)


def test_sizes_of_whole_videos() -> None:
    rng = random.Random(SEED + 2)
    cases: list[tuple[str, int, int, int, int]] = []
    while len(cases) < 2_000:
        height, width = side(rng) % 4000 + 20, side(rng) % 4000 + 20
        n_frames = rng.randint(1, 64)
        if max(height, width) / min(height, width) < 20:
            kind = rng.choice(["list", "file"])
            n_frames += n_frames % 2 if kind == "file" else 0
            cases.append((kind, n_frames, height, width, rng.randint(128 * 1024, 12_000_000)))
    assert [our_video_size(*case) for case in cases] == run_oracle(VIDEO_SCRIPT, cases)


def our_video_size(kind: str, n_frames: int, height: int, width: int, total: int) -> list[int]:
    if kind == "file":
        return list(budget.video_file_size(height, width, n_frames))
    first = budget.frame_list_first_size(height, width)
    return list(budget.frame_second_size(*first, len(list_sample(n_frames, 64).indices), total))
