"""A packed batch on the device, and how it gets there: pinned memory and a stream beside the forward on CUDA.

In: a `HostBatch`. Out: a `PackedBatch` of tensors. The copies run while the device computes something else; `arrive`
makes the forward's stream wait for them, not the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.collate import HostBatch, HostPictures, HostPrefixes
from pipeline.models.segments import Segments, cu_seqlens, segments_of

__all__ = ["PackedBatch", "PackedPictures", "PackedPrefixes", "Sender"]


@dataclass(frozen=True, slots=True, eq=False)
class PackedPictures:
    """`HostPictures` on the device: `stacks` are uint8[n, t, height_px, width_px, 3] views of one buffer."""

    stacks: tuple[Tensor, ...]
    segments: Segments
    places: Tensor
    entries: Tensor
    weights: Tensor
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PackedPrefixes:
    """`HostPrefixes` on the device: the segments of the prefixes, of the tokens that continue them, and of the pooled
    ones among those."""

    keys: tuple[int, ...]
    segments: Segments
    continued: Segments
    pooled: Segments


@dataclass(frozen=True, slots=True, eq=False)
class PackedBatch:
    """`HostBatch` on the device; `pooled` has one token an item. `copied`: CUDA's event of the copies' end."""

    ids: Tensor
    positions: Tensor
    segments: Segments
    pooled: Segments
    last: Tensor
    shown: Tensor
    sources: Tensor
    pictures: PackedPictures | None
    borrowed: tuple[int, ...]
    prefixes: PackedPrefixes | None
    copied: torch.cuda.Event | None

    @property
    def n_items(self) -> int:
        """Items in the batch."""
        return len(self.segments.lengths)

    def arrive(self) -> None:
        """Make what is launched from here on wait for the copies, and keep the tensors alive for it."""
        if self.copied is None:
            return
        stream = torch.cuda.current_stream(self.ids.device)
        stream.wait_event(self.copied)
        for tensor in self._tensors():
            tensor.record_stream(stream)

    def _tensors(self) -> Iterator[Tensor]:
        yield from (self.ids, self.positions, self.segments.cu, self.pooled.cu, self.last, self.shown, self.sources)
        if self.pictures is not None:
            yield from self.pictures.stacks
            yield from (self.pictures.segments.cu, self.pictures.places, self.pictures.entries, self.pictures.weights)
        if self.prefixes is not None:
            yield from (self.prefixes.segments.cu, self.prefixes.continued.cu, self.prefixes.pooled.cu)


class Sender:
    """Copies host batches to `device`; on a CPU the tensors are views of the host's arrays."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @property
    def device(self) -> torch.device:
        """Where the batches go."""
        return self._device

    def send(self, batch: HostBatch) -> PackedBatch:
        """Start the copies of `batch`; returns at once."""
        if self._stream is None:
            return self._packed(batch, None)
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            packed = self._packed(batch, copied)
            copied.record(self._stream)
        return packed

    def _packed(self, batch: HostBatch, copied: torch.cuda.Event | None) -> PackedBatch:
        ones = (1,) * len(batch.lengths)
        return PackedBatch(
            ids=self._put(batch.ids),
            positions=self._put(batch.positions),
            segments=self._segments(batch.lengths),
            pooled=self._segments(ones),
            last=self._put(batch.last),
            shown=self._put(batch.shown),
            sources=self._put(batch.sources),
            pictures=self._pictures(batch.pictures) if batch.pictures is not None else None,
            borrowed=batch.borrowed,
            prefixes=self._prefixes(batch.prefixes) if batch.prefixes is not None else None,
            copied=copied,
        )

    def _prefixes(self, prefixes: HostPrefixes) -> PackedPrefixes:
        return PackedPrefixes(
            keys=prefixes.keys,
            segments=self._segments(prefixes.lengths),
            continued=self._segments(prefixes.tokens),
            pooled=self._segments(prefixes.items),
        )

    def _pictures(self, pictures: HostPictures) -> PackedPictures:
        pixels = self._put(pictures.pixels)
        sizes = [int(np.prod(stack)) * 3 for stack in pictures.stacks]
        parts = torch.split(pixels, sizes)
        return PackedPictures(
            stacks=tuple(part.view(*stack, 3) for part, stack in zip(parts, pictures.stacks, strict=True)),
            segments=self._segments(pictures.lengths),
            places=self._put(pictures.places),
            entries=self._put(pictures.entries),
            weights=self._put(pictures.weights),
            keys=pictures.keys,
        )

    def _segments(self, lengths: tuple[int, ...]) -> Segments:
        return segments_of(lengths, self._put(cu_seqlens(lengths)))

    def _put(self, array: NDArray[np.generic]) -> Tensor:
        host = torch.from_numpy(array)
        if self._stream is None:
            return host
        return host.pin_memory().to(self._device, non_blocking=True)
