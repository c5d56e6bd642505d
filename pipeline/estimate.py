"""What a planned run would cost, from a sample that is really fetched and prepared.

In: the work list of a plan, and the functions that load and prepare an item. Out: an `Estimate`. Nothing is
refused: an item that cannot be fetched or prepared is a reject of the sample.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import RejectError
from pipeline.manifest.layouts.media_names import VIDEO
from pipeline.manifest.work import from_work_table
from pipeline.plan import Plan
from pipeline.schema import vector_fields
from pipeline.storage import Store
from pipeline.types import LoadedItem, MediaKind, Modality, Prepared, WorkItem

__all__ = ["Estimate", "Spread", "count_modalities", "estimate", "sample_items", "spread_of", "vector_bytes"]

_Z95 = 1.96
"""Standard errors on either side of a mean that hold 95 % of a normal distribution."""

_SEED = 0
"""The order of the sample is random, so that a time limit cuts it fairly, and the same every time."""

Loader = Callable[[Iterable[WorkItem]], Iterator[tuple[WorkItem, LoadedItem | RejectError]]]


@dataclass(frozen=True, slots=True)
class Spread:
    """A quantity of an item: mean, 95th percentile, and the total over all items with its 95 % error (±)."""

    mean: float
    p95: float
    total: float
    total_error: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cost of `items` items, judged by `sampled` of them. Tokens count only items that could be prepared.

    `vector_bytes`: uncompressed bytes by vector column, its scale included, if every item gets a vector; with those of
    the items that are written for another one's content, which cost nothing else.
    """

    items: int
    by_modality: Mapping[Modality, int]
    sampled: int
    sample_s: float
    text_tokens: Spread
    visual_tokens: Spread
    rejects: Mapping[str, int]
    vector_bytes: Mapping[str, int]


def estimate(
    plan: Plan,
    store: Store,
    *,
    load_many: Loader,
    prepare: Callable[[LoadedItem], Prepared],
    specs: Sequence[VectorSpec],
    hidden_dim: int,
    n_samples: int = 200,
    max_s: float = 60.0,
) -> Estimate:
    """Sample `plan`'s work list (written to `store`): evenly spaced items, in random order, for `max_s` at most.

    `load_many` is `Fetcher.load_many`, `prepare` is `Preparation.one` with a `Preparer`.
    """
    started = time.monotonic()
    text: list[int] = []
    visual: list[int] = []
    rejects: Counter[str] = Counter()
    for _, loaded in load_many(sample_items(store, plan.work_paths, n_samples)):
        try:
            prepared = _prepared(loaded, prepare)
        except RejectError as error:
            rejects[str(error.code)] += 1
        else:
            text.append(prepared.n_tokens - prepared.n_visual_tokens)
            visual.append(prepared.n_visual_tokens)
        if time.monotonic() - started > max_s:
            break
    sampled = len(text) + sum(rejects.values())
    good = plan.counts.to_do * len(text) / sampled if sampled else 0.0
    written = plan.counts.to_do + plan.counts.duplicates
    return Estimate(
        items=plan.counts.to_do,
        by_modality=count_modalities(store, plan.work_paths),
        sampled=sampled,
        sample_s=time.monotonic() - started,
        text_tokens=spread_of(text, good),
        visual_tokens=spread_of(visual, good),
        rejects=dict(rejects),
        vector_bytes={spec.name: vector_bytes(spec, hidden_dim) * written for spec in specs},
    )


def spread_of(values: Sequence[float], n: float) -> Spread:
    """Mean and 95th percentile of `values`, and the total over `n` like them; all 0 for no values.

    The error is 1.96 · s / √k · n for k values of standard deviation s (0 where k < 2), less if the sample is
    most of the whole (finite population correction √(1 - k/n)).
    """
    if not values:
        return Spread(0.0, 0.0, 0.0, 0.0)
    sample = np.asarray(values, np.float64)
    k = len(values)
    deviation = float(sample.std(ddof=1)) if k > 1 else 0.0
    unseen = max(0.0, 1.0 - k / n) if n else 0.0
    error = _Z95 * deviation / math.sqrt(k) * math.sqrt(unseen) * n
    mean = float(sample.mean())
    return Spread(mean, float(np.percentile(sample, 95)), mean * n, error)


def vector_bytes(spec: VectorSpec, hidden_dim: int) -> int:
    """Uncompressed bytes that one item takes in the column of `spec`, its scale included."""
    total = 0
    for field in vector_fields([spec], hidden_dim):
        width = field.type.list_size if pa.types.is_fixed_size_list(field.type) else 1
        value = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
        total += width * value.bit_width // 8
    return total


def sample_items(store: Store, work_paths: Sequence[str], n: int) -> Iterator[WorkItem]:
    """Up to `n` evenly spaced items of the work list, in a random but fixed order of row groups."""
    groups = list(_groups(store, work_paths))
    total = sum(rows for *_, rows in groups)
    wanted = np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(np.int64))
    picks: list[tuple[str, int, NDArray[np.int64]]] = []
    start = 0
    for path, group, rows in groups:
        inside = wanted[(wanted >= start) & (wanted < start + rows)] - start
        if len(inside):
            picks.append((path, group, inside))
        start += rows
    random.Random(_SEED).shuffle(picks)  # noqa: S311 - a sample, not a secret
    for path, group, inside in picks:
        with store.open_input(path) as file:
            table = pq.ParquetFile(file).read_row_group(group)
        yield from from_work_table(table.take(pa.array(inside)))


def count_modalities(store: Store, work_paths: Sequence[str]) -> dict[Modality, int]:
    """How many items of the work list hold what, by the rule of the `modality` column.

    Of files that may be either only the names are known here: one is a video if it is called like one.
    """
    counts: Counter[Modality] = Counter()
    for path in work_paths:
        with store.open_input(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["texts", "media"]):
                counts.update(_modalities(batch))
    return {modality: counts[modality] for modality in Modality}


def _modalities(batch: pa.RecordBatch) -> Counter[Modality]:
    n = batch.num_rows
    texts, media = batch.column("texts"), batch.column("media")
    kinds = pc.struct_field(media.flatten(), "kind")
    image = pc.or_(pc.equal(kinds, str(MediaKind.IMAGE)), _files_not_called_video(media.flatten(), kinds))
    has_image = _any_of(media, image, n)
    has_video = _any_of(media, pc.invert(image), n)
    # An empty text beside media counts as none, and an item with nothing at all is text (`NULL`).
    has_text = _any_of(texts, pc.greater(pc.binary_length(texts.flatten()), 0), n) | ~(has_image | has_video)
    several = has_image.astype(np.int8) + has_video + has_text > 1
    return Counter(
        {
            Modality.TEXT: int((has_text & ~several).sum()),
            Modality.IMAGE: int((has_image & ~several).sum()),
            Modality.VIDEO: int((has_video & ~several).sum()),
            Modality.MIXED: int(several.sum()),
        }
    )


def _files_not_called_video(media: pa.Array, kinds: pa.Array) -> pa.Array:
    refs = pc.struct_field(media, "refs")
    named = pc.fill_null(pc.match_substring_regex(pc.struct_field(refs.flatten(), "uri"), VIDEO), False)
    called_video = pa.array(_any_of(refs, named, len(media)))
    return pc.and_not(pc.equal(kinds, str(MediaKind.FILE)), called_video)


def _any_of(lists: pa.Array, flags: pa.Array, n: int) -> NDArray[np.bool_]:
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    found = np.zeros(n, np.bool_)
    found[parents[flags.to_numpy(zero_copy_only=False).astype(bool)]] = True
    return found


def _groups(store: Store, work_paths: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    for path in work_paths:
        with store.open_input(path) as file:
            meta = pq.ParquetFile(file).metadata
        yield from ((path, group, meta.row_group(group).num_rows) for group in range(meta.num_row_groups))


def _prepared(loaded: LoadedItem | RejectError, prepare: Callable[[LoadedItem], Prepared]) -> Prepared:
    if isinstance(loaded, RejectError):
        raise loaded
    return prepare(loaded)
