"""A query's half and a document's half put together: as they are, cut to `max_length`, or refused.

In: two `RerankHalf`s, each prepared once for all its pairs. Out: `PreparedPair`. Refused, as RejectError
(`OVER_LENGTH`): pairs whose visuals and words leave no room for a token of each text, or any that is too long under
`over_length: reject`. All of it is arithmetic on ids; neither half is tokenised again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.cuttable import CuttableIds
from pipeline.errors import RejectCode, RejectError
from pipeline.positions import mrope_positions
from pipeline.prefixes import WHOLE, Prefixed
from pipeline.template import CONTROL_IDS
from pipeline.tokenizer import OverLength
from pipeline.types import Prepared

__all__ = ["PreparedPair", "RerankHalf", "fit", "join", "pair_halves", "prefixed"]

_KEPT_TAIL_TOKENS = 5
"""`<|im_end|>`, a line break, `<|im_start|>`, `assistant`, a line break: the official cut sets them aside."""


@dataclass(frozen=True, slots=True)
class RerankHalf:
    """A query or a document ready for all its pairs.

    `prepared` is the whole half, its positions counted from the half's own start; `ids` says what a cut may take.
    """

    prepared: Prepared
    ids: CuttableIds


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """One prompt: `prefix`, then `suffix`, each with positions from its own start and its own visuals.

    `shared` says that the prefix is the query's own, uncut: all pairs of the query that are shared have the same one,
    so that its keys and values can be computed once. `content_hash`es are those of the uncut halves.
    """

    prefix: Prepared
    suffix: Prepared
    shared: bool

    @property
    def n_tokens(self) -> int:
        """Length of the whole prompt in tokens."""
        return self.prefix.n_tokens + self.suffix.n_tokens

    @property
    def truncated(self) -> bool:
        """Whether either side lost something."""
        return self.prefix.truncated or self.suffix.truncated

    @property
    def suffix_start(self) -> int:
        """What to add to the suffix's positions, on all three axes, to have them in the whole prompt."""
        return int(self.prefix.position_ids.max()) + 1


def join(pair: PreparedPair) -> Prepared:
    """The pair as one prompt, for a model that shares nothing: the same ids, positions and visuals in one piece.

    `id` and `content_hash` are the query's and the document's with a line break between.
    """
    prefix, suffix = pair.prefix, pair.suffix
    return replace(
        suffix,
        id=f"{prefix.id}\n{suffix.id}",
        input_ids=np.concatenate([prefix.input_ids, suffix.input_ids]),
        position_ids=np.concatenate([prefix.position_ids, suffix.position_ids + np.int32(pair.suffix_start)], axis=1),
        visuals=(*prefix.visuals, *suffix.visuals),
        n_visual_tokens=prefix.n_visual_tokens + suffix.n_visual_tokens,
        n_frames=prefix.n_frames + suffix.n_frames,
        truncated=pair.truncated,
        content_hash=f"{prefix.content_hash}\n{suffix.content_hash}",
    )


def prefixed(pairs: Sequence[PreparedPair]) -> Prefixed:
    """`pairs` in parts, so that a prefix that several of them have is computed once; a pair on its own stays whole."""
    times = Counter(id(pair.prefix) for pair in pairs)
    numbers: dict[int, int] = {}
    prefixes: list[Prepared] = []
    items: list[Prepared] = []
    of: list[int] = []
    for pair in pairs:
        key = id(pair.prefix)
        if times[key] == 1:
            items.append(join(pair))
            of.append(WHOLE)
            continue
        if key not in numbers:
            numbers[key] = len(prefixes)
            prefixes.append(pair.prefix)
        moved = pair.suffix.position_ids + np.int32(pair.suffix_start)
        items.append(replace(pair.suffix, position_ids=moved))
        of.append(numbers[key])
    return Prefixed(tuple(prefixes), tuple(items), tuple(of))


def pair_halves(
    query: RerankHalf, document: RerankHalf, *, max_length: int, over_length: OverLength = "truncate"
) -> PreparedPair:
    """The pair within `max_length` tokens. Raises RejectError (`OVER_LENGTH`).

    `truncate` cuts the longer text (see `fit`); a pair whose query is cut shares nothing. `reference` cuts as the
    official code does, which may take the whole document and may end in up to five tokens more than `max_length`.
    """
    if over_length == "reference":
        return _cut_as_reference(query, document, max_length)
    n_tokens = query.ids.n_tokens + document.ids.n_tokens
    if n_tokens <= max_length:
        return PreparedPair(query.prepared, document.prepared, shared=True)
    if over_length == "reject":
        raise RejectError(RejectCode.OVER_LENGTH, f"{n_tokens} tokens of {max_length}, and over_length is reject")
    cuts = fit(query.ids.n_tokens, query.ids.text_tokens, document.ids.n_tokens, document.ids.text_tokens, max_length)
    if cuts is None:
        raise RejectError(
            RejectCode.OVER_LENGTH,
            f"visuals and words of the pair take {query.ids.fixed_tokens} + {document.ids.fixed_tokens} tokens of"
            f" {max_length} and leave no room for text; lower inputs.side_tokens if they are videos",
        )
    return PreparedPair(_shortened(query, cuts[0]), _shortened(document, cuts[1]), shared=not cuts[0])


def fit(
    prefix_tokens: int, query_text_tokens: int, suffix_tokens: int, doc_text_tokens: int, max_length: int
) -> tuple[int, int] | None:
    """Text tokens to take from query and document so that `prefix_tokens` + `suffix_tokens` come to `max_length`.

    `query_text_tokens` of the prefix and `doc_text_tokens` of the suffix may go. The longer text is cut, down to the
    length of the other one, from where on both are, the document first. Each text keeps a token at least; None where
    that cannot be. A text longer than `max_length` may be counted as anything above it: the other loses no more for it.
    """
    if prefix_tokens + suffix_tokens <= max_length:
        return 0, 0
    room = max_length - (prefix_tokens - query_text_tokens) - (suffix_tokens - doc_text_tokens)
    if room < (query_text_tokens > 0) + (doc_text_tokens > 0):
        return None
    half = (room + 1) // 2
    query_kept = min(query_text_tokens, max(half, room - doc_text_tokens))
    return query_text_tokens - query_kept, doc_text_tokens - min(doc_text_tokens, room - query_kept)


def _shortened(half: RerankHalf, n_tokens: int) -> Prepared:
    return _with_ids(half.prepared, half.ids.without(n_tokens)) if n_tokens else half.prepared


def _with_ids(prepared: Prepared, input_ids: NDArray[np.int32]) -> Prepared:
    grids = [visual.grid_thw for visual in prepared.visuals]
    return replace(prepared, input_ids=input_ids, position_ids=mrope_positions(input_ids, grids), truncated=True)


def _cut_as_reference(query: RerankHalf, document: RerankHalf, max_length: int) -> PreparedPair:
    """Set the last five ids aside; of the rest keep every control token, and the first others up to `max_length`."""
    prefix, suffix = query.ids.whole, document.ids.whole
    body, tail = suffix[:-_KEPT_TAIL_TOKENS], suffix[-_KEPT_TAIL_TOKENS:]
    rest = np.concatenate([prefix, body])
    if len(rest) <= max_length:
        return PreparedPair(query.prepared, document.prepared, shared=True)
    control = np.isin(rest, list(CONTROL_IDS.values()))
    kept = control | (np.cumsum(~control) <= max_length - int(control.sum()))
    kept_prefix, kept_body = kept[: len(prefix)], kept[len(prefix) :]
    shared = bool(kept_prefix.all())
    cut_prefix = query.prepared if shared else _with_ids(query.prepared, prefix[kept_prefix])
    if kept_body.all():
        return PreparedPair(cut_prefix, document.prepared, shared)
    return PreparedPair(cut_prefix, _with_ids(document.prepared, np.concatenate([body[kept_body], tail])), shared)
