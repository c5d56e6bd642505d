"""When the frames of a video are shown, from its packets alone.

In: a `Stamp` a packet, in decoding order. Out: a `Timeline`: the frames a decoder will give, in presentation order,
and which packets it must be fed to give some of them. Refused: nothing; pure.

Containers lie about duration, rate and frame count, so none of the three is asked: only the packets are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stamp", "Timeline", "build_timeline"]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a packet says of itself, in ticks of its stream; `hidden`: decoded for others' sake, never shown."""

    pts: int | None
    dts: int | None
    key: bool
    hidden: bool


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """A video's frames and packets.

    `shown`: int64[n], ticks of the frames in presentation order. `packets`: int64[m], the tick of each packet in
    decoding order; `keys`: bool[m]. `first`: the packet where decoding can begin. `counted`: the container gives no
    presentation times (AVI), so frame i is the i-th one decoded.
    """

    shown: NDArray[np.int64]
    packets: NDArray[np.int64]
    keys: NDArray[np.bool_]
    first: int
    counted: bool

    def needed(self, ticks: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool[m]: the packets from which the frames shown at `ticks` can be decoded.

        That is every group of pictures that holds one of them. A frame shown before its group's keyframe leans on the
        group before as well. Frames of a counted timeline are found by counting, so all packets are needed.
        """
        places = np.arange(len(self.packets))
        usable = places >= self.first
        if self.counted:
            return usable
        group = np.cumsum(self.keys)
        starts = np.maximum.accumulate(np.where(self.keys, places, 0))
        holds = np.isin(self.packets, ticks) & usable
        leads = holds & (self.packets < self.packets[starts])
        wanted = np.union1d(group[holds], group[leads] - 1)
        return np.isin(group, wanted) & usable


def build_timeline(stamps: Sequence[Stamp]) -> Timeline:
    """The timeline of packets `stamps` (at least one).

    Left out of `shown`: packets before the first keyframe and frames shown before it (their references are missing, so
    decoders drop them), discarded ones (edit lists), and the second of two at the same tick. If any packet lacks its
    presentation time, decoding times stand for all; if those lack too, places do.
    """
    keys = np.array([stamp.key for stamp in stamps], np.bool_)
    first = int(np.argmax(keys))
    hidden = np.array([stamp.hidden for stamp in stamps], np.bool_)
    usable = np.arange(len(stamps)) >= first
    if all(stamp.pts is not None for stamp in stamps):
        packets = np.array([stamp.pts for stamp in stamps], np.int64)
        visible = usable & ~hidden & (packets >= packets[first] if keys[first] else True)
        return Timeline(np.unique(packets[visible]), packets, keys, first, counted=False)
    packets = _decoding_times(stamps)
    return Timeline(np.sort(packets[usable & ~hidden]), packets, keys, first, counted=True)


def _decoding_times(stamps: Sequence[Stamp]) -> NDArray[np.int64]:
    if any(stamp.dts is None for stamp in stamps):
        return np.arange(len(stamps), dtype=np.int64)
    return np.array([stamp.dts for stamp in stamps], np.int64)
