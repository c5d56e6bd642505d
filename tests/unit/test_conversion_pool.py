"""Conversion in several processes gives what it gives in one, whatever happens to the processes."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import Config
from pipeline.conversion import Candidates, Recipe
from pipeline.conversion_pool import ConversionPool
from pipeline.errors import ManifestError
from pipeline.fetch import Fetcher
from pipeline.identity import Identifier
from pipeline.manifest.manifest import Manifest, open_manifest
from pipeline.manifest.source import Piece
from pipeline.policy import FetchPolicy
from tests.fixtures.manifests import job_config, write_parquet

ROWS = 60
STEP = 4


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Files that the manifest knows by their etag, but for one of four that only the file system knows; and texts."""
    (tmp_path / "here.jpg").write_bytes(b"a picture")
    asked = [n % 16 == 5 for n in range(ROWS)]
    columns = {
        "id": [f"i{n}" for n in range(ROWS)],
        "text": [f"t{n}" if n % 3 == 0 else None for n in range(ROWS)],
        "image": ["here.jpg" if here else f"s3://lake/{n}.jpg" for n, here in enumerate(asked)],
        "etag": [None if here else f"e{n}" for n, here in enumerate(asked)],
        "fps": [2.0] * ROWS,
        "label": list(range(ROWS)),
    }
    path = write_parquet(tmp_path / "m.parquet", columns)
    return job_config(path, tmp_path / "out", manifest={"path": str(path), "carry": ["label"]})


def pieces_of(manifest: Manifest) -> Iterator[Piece]:
    """The manifest's only piece, in slices."""
    [whole] = manifest.pieces()
    for start in range(0, ROWS, STEP):
        yield Piece(whole.file, range(start, start + STEP), whole.table.slice(start, STEP))


@contextmanager
def pool_of(config: Config, processes: int, rows_here: int = STEP) -> Iterator[tuple[ConversionPool, Manifest]]:
    manifest = open_manifest(config.manifest, {})
    policy = FetchPolicy.of(config.fetch, manifest.folder)
    recipe = Recipe(manifest.batcher, policy, config.inputs, "c")
    with (
        Fetcher(policy) as fetcher,
        Identifier(fetcher, "auto") as identifier,
        ConversionPool(recipe, identifier, processes=processes, rows_here=rows_here) as pool,
    ):
        yield pool, manifest


def plain(found: list[Candidates]) -> pa.Table:
    """All of `found` as one table."""
    tables = [each.table.append_column("carried", each.carried).append_column("shared", each.shared) for each in found]
    return pa.concat_tables(tables)


def workers(parent: int) -> list[int]:
    """The worker processes that `parent` has now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_child = int(stat.read_text().rpartition(")")[2].split()[1]) == parent
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if is_child and b"popen_loky" in command:
            found.append(int(stat.parent.name))
    return found


def spoiled(manifest: Manifest) -> Iterator[Piece]:
    """The same, with a last piece that is refused."""
    for piece in pieces_of(manifest):
        fps = pa.array([-1.0] * STEP if piece.rows[0] == ROWS - STEP else [2.0] * STEP)
        place = piece.table.schema.get_field_index("fps")
        yield Piece(piece.file, piece.rows, piece.table.set_column(place, "fps", fps))


def test_processes_change_nothing_even_when_they_die(config: Config) -> None:
    before = set(workers(os.getpid()))
    with pool_of(config, processes=1) as (alone, manifest):
        expected = plain(list(alone.convert(pieces_of(manifest))))
        assert set(workers(os.getpid())) == before
    assert expected.num_rows == ROWS
    assert gc.isenabled()  # it only rests
    refusal = f"frames per second, above 0; found -1.0 .id 'i{ROWS - STEP}', row {ROWS - STEP}"
    with pool_of(config, processes=2) as (pool, manifest):
        with pytest.raises(ManifestError, match=refusal):
            list(pool.convert(spoiled(manifest)))
        found = list(pool.convert(pieces_of(manifest)))
        assert plain(found).equals(expected)
        assert sum(each.asked for each in found) == 4
        ours = set(workers(os.getpid())) - before
        assert len(ours) == 2
        os.kill(min(ours), signal.SIGKILL)
        assert plain(list(pool.convert(pieces_of(manifest)))).equals(expected)
    assert set(workers(os.getpid())) == before


def test_small_manifests_and_asked_stores_start_no_process(config: Config) -> None:
    before = set(workers(os.getpid()))
    with pool_of(config, processes=2, rows_here=ROWS) as (pool, manifest):
        assert len(list(pool.convert(pieces_of(manifest)))) == ROWS // STEP
    with pool_of(config, processes=2, rows_here=STEP) as (pool, manifest):
        # Rows 4 to 7, one of which only the file system knows, again and again.
        asked = [piece for piece in pieces_of(manifest) if piece.rows[0] == STEP] * 5
        assert all(each.asked for each in pool.convert(asked))
        assert set(workers(os.getpid())) == before


@pytest.mark.slow
def test_processes_end_with_a_parent_that_was_killed(config: Config) -> None:
    code = (
        "import sys, time\n"
        "from pipeline.config import Config\n"
        "from tests.unit.test_conversion_pool import pieces_of, pool_of\n"
        "with pool_of(Config.model_validate_json(sys.stdin.read()), 2) as (pool, manifest):\n"
        "    print(len(list(pool.convert(pieces_of(manifest)))), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(config.model_dump_json())
        parent.stdin.close()
        assert int(parent.stdout.readline()) == ROWS // STEP
        left = workers(parent.pid)
        assert len(left) == 2
        parent.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in left):  # the suite's own time limit ends a wait in vain
        time.sleep(0.1)
