"""One retrieval: how a block of queries is answered from an index, in one scan and perhaps a second look.

In: blocks of query vectors, the pieces of the index. Out: `Found` tables, final. Refused with ManifestError: queries
without direction.

What runs where is the caller's: `Workers` maps a picklable function over pieces, as Ray tasks or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import VectorSpec
from pipeline.errors import ManifestError
from pipeline.retrieval.codes import Codes, quantized
from pipeline.retrieval.rescore import rescored
from pipeline.retrieval.scan import Piece, Scan, scan_piece
from pipeline.retrieval.top_k import Best
from pipeline.retrieval.vector_index import VectorIndex
from pipeline.storage import Store

__all__ = ["Retrieval", "Workers"]

Workers = Callable[[Callable[[Any], pa.Table], Sequence[Any]], Iterable[pa.Table]]
"""Applies a function to each of several arguments, in any order."""

BLOCK_ROWS = 1 << 20
"""Rows of one answer (queries × documents): 40 MiB, several of which wait at the driver at once."""

BLOCK_BYTES = 64 << 20
"""Of float32 query vectors in a block: each task holds them, and reading the corpus once pays for thousands."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """`scan` finds documents, `rescore` is the column that they are ranked by again (None: they are not), `k` are kept.

    `exclude_self`: a document whose id is the query's own is left out.
    """

    corpus: VectorIndex
    scan: Scan
    rescore: VectorSpec | None
    k: int
    exclude_self: bool

    def block_rows(self, dim: int) -> int:
        """How many queries of `dim` values are answered at once."""
        return max(1, min(BLOCK_ROWS // self.scan.k, BLOCK_BYTES // (4 * dim)))

    def answer(
        self, ids: pa.Array, vectors: NDArray[np.float32], pieces: Sequence[Piece], workers: Workers
    ) -> pa.Table:
        """The documents of each query (`ids`, float32[n, dim] `vectors`), at most `k`, best first.

        Raises ManifestError for a vector that is zero or not finite.
        """
        spec = self.scan.spec
        codes = _codes(ids, vectors, spec if spec.dtype in ("int8", "binary") else _float(spec))
        best = Best(len(ids), self.scan.k, self.scan.id_type)
        for found in workers(partial(_scan, self.corpus.store, codes, self.scan), pieces):
            best.add(found)
        found = self._others(best.table(), ids)
        if self.rescore is None:
            return _cut(found, self.k, len(ids), self.scan.id_type)
        queries = _codes(ids, vectors, _float(self.rescore)).values
        again = partial(_rescore, self.corpus, queries, self.rescore)
        scored = list(workers(again, list(_by_file(found))))
        return _cut(pa.concat_tables([found.schema.empty_table(), *scored]), self.k, len(ids), self.scan.id_type)

    def _others(self, found: pa.Table, ids: pa.Array) -> pa.Table:
        if not self.exclude_self:
            return found
        queries = ids.take(found.column("query")).cast(pa.string())
        return found.filter(pc.not_equal(queries, found.column("id").cast(pa.string())))


def _codes(ids: pa.Array, vectors: NDArray[np.float32], spec: VectorSpec) -> Codes:
    codes, ok = quantized(vectors, spec)
    if not ok.all():
        bad = ids.filter(pa.array(~ok)).to_pylist()
        raise ManifestError(
            f"{len(bad)} queries have no direction, among them {', '.join(map(repr, bad[:5]))}: their vectors are zero "
            "or not finite; leave them out"
        )
    return codes


def _float(spec: VectorSpec) -> VectorSpec:
    return VectorSpec(name=spec.name, dim=spec.dim, dtype="float32")


def _scan(store: Store, queries: Codes, scan: Scan, piece: Piece) -> pa.Table:
    return scan_piece(store, piece, queries, scan)


def _rescore(corpus: VectorIndex, queries: NDArray[np.float32], spec: VectorSpec, found: pa.Table) -> pa.Table:
    file = found.column("file")[0].as_py()
    return rescored(corpus.store, corpus.files[file].path, found, queries, spec)


def _by_file(found: pa.Table) -> Iterator[pa.Table]:
    found = found.sort_by("file")
    starts = np.unique(found.column("file").to_numpy(), return_index=True)[1].tolist()
    for start, end in pairwise([*starts, found.num_rows]):
        yield found.slice(start, end - start)


def _cut(found: pa.Table, k: int, n_queries: int, id_type: pa.DataType) -> pa.Table:
    best = Best(n_queries, k, id_type)
    best.add(found)
    return best.table()
