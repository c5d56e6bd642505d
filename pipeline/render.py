"""A prepared item as a person reads it: the exact prompt, what it costs, and what each visual became.

In: a `Prepared`. Out: text for `lakevec render`. Refused: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from pipeline.budget import grid_tokens
from pipeline.template import IMAGE_PAD_ID, VIDEO_PAD_ID
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import MediaKind, Prepared, Visual

__all__ = ["render"]

_STAMP = re.compile(r"<(\d+\.\d) seconds>$")


def render(prepared: Prepared, tokenizer: PromptTokenizer) -> str:
    """The prompt of `prepared` with runs of pads shown as `<|image_pad|>×N`, then its counts, then its visuals."""
    cut = ", truncated" if prepared.truncated else ""
    facts = [
        f"item {prepared.id}: {prepared.modality}{cut}",
        f"{prepared.n_tokens} tokens, {prepared.n_visual_tokens} of them visual; {prepared.n_frames} video frames",
    ]
    pieces = list(_pieces(prepared, tokenizer))
    times = _times(pieces)
    visuals = [_describe(number, visual, times) for number, visual in enumerate(prepared.visuals, start=1)]
    return "\n".join(["".join(pieces), "", *facts, *visuals]) + "\n"


def _pieces(prepared: Prepared, tokenizer: PromptTokenizer) -> Iterator[str]:
    """The prompt in turn: text, a run of pads, text, …; the even pieces are text."""
    ids = prepared.input_ids
    is_pad = (ids == IMAGE_PAD_ID) | (ids == VIDEO_PAD_ID)
    edges = [0, *(np.flatnonzero(np.diff(is_pad)) + 1).tolist(), len(ids)]
    for start, end in pairwise(edges):
        shown = ids[start : start + 1] if is_pad[start] else ids[start:end]
        yield tokenizer.decode(shown) + (f"×{end - start}" if is_pad[start] else "")


def _times(pieces: list[str]) -> Iterator[str]:
    """The timestamp written before each run of video pads."""
    for before, pads in pairwise(pieces):
        if pads.startswith("<|video_pad|>×"):
            found = _STAMP.search(before.removesuffix("<|vision_start|>"))
            assert found is not None, "every block of video pads follows its timestamp"
            yield found.group(1)


def _describe(number: int, visual: Visual, times: Iterator[str]) -> str:
    n_frames, height_px, width_px, _ = visual.frames.shape
    grid, tokens = visual.grid_thw, grid_tokens(visual.grid_thw)
    line = f"visual {number}: {visual.kind}, {width_px}x{height_px} px, grid_thw {grid}, {tokens} tokens"
    if visual.kind is MediaKind.IMAGE:
        return line
    shown = " ".join(next(times) for _ in range(grid[0]))
    return f"{line}, {n_frames} frames, at {shown} s"
