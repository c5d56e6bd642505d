"""Planning a night: how long, how large in memory, and how both grow with the lake.

    python -m benchmarks.plan [--rows 100000 1000000] [--content-hash] [--out plan.json]

For each size: a first night (nothing live), then a second one whose manifest has 1 % new items, 1 % changed, 1 %
deleted and 1 % with another carried value, against the index that the first one asks for, and the merge that ends it.
Each step runs in a process of its own. Memory is the largest sum of resident sizes of that process and its children
(pages that they share count twice), seen ten times a second. Two anti-joins stand beside it, by DuckDB and by Arrow, on
ids alone: what a job does that skips the keys it has. CPU seconds are those of all processes of a step: what a busy
machine still tells. Each row's media are a URI of S3 with an etag (or a
content hash) and a size, so no store is asked. 10 million rows take 6 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline import plan
from pipeline.config import Config, VectorSpec
from pipeline.index.commits import FileEntry, Table
from pipeline.index.merge import plan_merge
from pipeline.index.parquet import write_file
from pipeline.manifest.manifest import open_manifest
from pipeline.schema import rejects_schema, vectors_schema
from pipeline.storage import Store, open_store

SPEC = VectorSpec(dim=8, dtype="binary")
"""A byte a vector: planning reads ids, fingerprints and carried columns."""
FILE_ROWS = 262_144
TARGET_BYTES = 256 << 20
PERIOD_S = 0.1
P = ParamSpec("P")
T = TypeVar("T")
STEPS = ("first night", "second night", "merge", "DuckDB, ids only", "Arrow, ids only")

_ROWS = """
COPY (
    SELECT format('item-{{:012d}}', i) AS id,
           format('s3://lake/{{:03d}}/{{:012d}}.jpg', i % 1000, i) AS image,
           md5(format('{{}} {{}}', i, {edition})) AS {identity},
           1000 + i % 1000000 AS size,
           i + {label} AS label
    FROM range({start}, {stop}) AS numbers(i) WHERE {kept}
) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--content-hash", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        print(json.dumps(_step(options.step[0], Path(options.step[1]))))
        return {}
    identity = "content_hash" if options.content_hash else "etag"
    document: dict[str, Any] = {"cores": os.cpu_count(), "identity": identity, "sizes": {}}
    for rows in options.rows:
        document["sizes"][rows] = _measured(rows, identity)
    document["exponents"] = _exponents(document["sizes"])
    print("exponents of growth:", document["exponents"])
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")
    return document


def _measured(rows: int, identity: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lakevec-bench-") as name:
        folder = Path(name)
        _write_manifests(folder, rows, identity)
        found: dict[str, Any] = {}
        for step in STEPS:
            found[step] = _in_child(step, folder)
            if step == "first night":
                _write_live(folder, found[step]["plan"])
            if step == "second night":
                _write_parts(folder, found[step]["plan"])
            _show(rows, step, found[step])
    return found


def _show(rows: int, step: str, found: dict[str, Any]) -> None:
    phases = ", ".join(f"{phase} {took:.1f} s" for phase, took in found["phases"].items())
    print(
        f"{rows:>10,} {step:<16} {found['total_s']:8.1f} s (CPU {found['cpu_s']:.1f}) "
        f"{found['total_s'] / rows * 1e6:6.1f} us/row (CPU {found['cpu_s'] / rows * 1e6:.1f}) "
        f"{found['peak_bytes'] / 2**20:6.0f} MiB  load {os.getloadavg()[0]:.1f}  {phases}",
        flush=True,
    )


def _exponents(sizes: dict[int, Any]) -> dict[str, float]:
    """The power of the number of rows that the CPU time grows with, between the smallest and the largest size."""
    low, high = min(sizes), max(sizes)
    if low == high:
        return {}
    growth = math.log(high / low)
    return {step: round(math.log(sizes[high][step]["cpu_s"] / sizes[low][step]["cpu_s"]) / growth, 2) for step in STEPS}


def _write_manifests(folder: Path, rows: int, identity: str) -> None:
    # Of every 100 items: number 0 is deleted, 1 changed, 2 carried anew; as many new ones come behind.
    with duckdb.connect() as db:
        for night, stop, kept, edition, label in (
            ("first", rows, "true", "0", "0"),
            ("second", rows + rows // 100, f"i % 100 <> 0 OR i >= {rows}", "(i % 100 = 1)::INT", "(i % 100 = 2)::INT"),
        ):
            path = folder / f"{night}.parquet"
            db.execute(
                _ROWS.format(identity=identity, start=0, stop=stop, kept=kept, edition=edition, label=label, path=path)
            )


def _write_live(folder: Path, plan_of: dict[str, Any]) -> None:
    store = open_store(str(folder / "out"))
    items = pq.ParquetFile(store.full(plan_of["items"])).iter_batches(FILE_ROWS, columns=["id", "fingerprint"])
    labels = pq.ParquetFile(folder / "first.parquet").iter_batches(FILE_ROWS, columns=["label"])
    rows = (
        pa.table({"id": some["id"], "fingerprint": some["fingerprint"], "label": more["label"]})
        for some, more in zip(items, labels, strict=True)
    )
    _write_files(folder, store, "live", rows)


def _write_parts(folder: Path, plan_of: dict[str, Any]) -> None:
    store = open_store(str(folder / "out"))
    names = {"id": "id", "fingerprint": "fingerprint", "carry.label": "label"}
    tables = (pq.read_table(store.full(path), columns=list(names)) for path in plan_of["work"])
    _write_files(folder, store, "parts", (table.rename_columns(list(names.values())) for table in tables))


def _write_files(folder: Path, store: Store, name: str, tables: Iterator[pa.Table]) -> None:
    schema = _schemas()[Table.VECTORS]
    entries = [write_file(store, Table.VECTORS, name, schema, _vectors(table, schema).to_batches()) for table in tables]
    facts = [[entry.table, entry.path, entry.rows, entry.bytes, entry.sha256] for entry in entries]
    (folder / f"{name}.json").write_text(json.dumps(facts))


def _vectors(table: pa.Table, schema: pa.Schema) -> pa.Table:
    codes = pa.FixedSizeListArray.from_arrays(pa.array(bytes(table.num_rows), pa.uint8()), 1)
    known = {name: table.column(name) for name in table.column_names} | {SPEC.name: codes}
    nulls = {field.name: pa.nulls(table.num_rows, field.type) for field in schema}
    return pa.table([known.get(name, nulls[name]) for name in schema.names], schema=schema)


def _schemas() -> dict[Table, pa.Schema]:
    carry = (pa.field("label", pa.int64()),)
    return {
        Table.VECTORS: vectors_schema([SPEC], SPEC.dim or 0, carry, pa.string()),
        Table.REJECTS: rejects_schema(pa.string()),
    }


def _in_child(step: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.plan", "--step", step, str(folder)]
    before = _children_cpu_s()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peak = 0
        while child.poll() is None:
            peak = max(peak, _tree_bytes(child.pid))
            time.sleep(PERIOD_S)
        assert child.stdout is not None, "it was asked for"
        said = child.stdout.read()
    if child.returncode:
        raise SystemExit(f"{step} failed with exit code {child.returncode}")
    return json.loads(said.splitlines()[-1]) | {"peak_bytes": peak, "cpu_s": _children_cpu_s() - before}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _tree_bytes(root: int) -> int:
    resident: dict[int, int] = {}
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # Behind the name in brackets, which may hold anything: state, parent, ..., resident pages.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended
            parents[int(entry.name)], resident[int(entry.name)] = int(fields[1]), int(fields[21])
    inside = {root}
    for pid in sorted(parents):  # a child's number is mostly the larger one; where numbers wrap, a look is missed
        if parents[pid] in inside:
            inside.add(pid)
    return sum(resident.get(pid, 0) for pid in inside) * os.sysconf("SC_PAGE_SIZE")


def _step(step: str, folder: Path) -> dict[str, Any]:
    phases: dict[str, float] = {}
    started = time.monotonic()
    if step == "merge":
        found = _merge(folder)
    elif step in ("first night", "second night"):
        found = _plan(folder, step.partition(" ")[0], phases)
    else:
        found = _peer(folder, step)
    return found | {"total_s": time.monotonic() - started, "phases": phases}


def _plan(folder: Path, night: str, phases: dict[str, float]) -> dict[str, Any]:
    config = Config.model_validate(
        {
            "manifest": {"path": str(folder / f"{night}.parquet"), "carry": ["label"]},
            "model": {"path": "none"},
            "output": {"path": str(folder / "out")},
            "fetch": {"schemes": ["s3"]},
        }
    )
    manifest = open_manifest(config.manifest, {})
    live = _entries(folder, "live") if night == "second" else []
    plan.check_ids = _timed(plan.check_ids, "ids", phases)
    plan._write_candidates = _timed(plan._write_candidates, "rows", phases)
    plan.compare = _timed(plan.compare, "joins", phases)
    made = plan.make_plan(
        config, manifest, open_store(config.output.path), run_id=night, compute_fingerprint="0" * 32, live=live
    )
    paths = {"items": made.items_path, "work": list(made.work_paths), "carried": made.carried_path}
    (folder / f"{night}.json").write_text(json.dumps(paths))
    return {"plan": paths, "counts": {name: getattr(made.counts, name) for name in made.counts.__slots__}}


def _timed(whole: Callable[P, T], name: str, phases: dict[str, float]) -> Callable[P, T]:
    def timed(*arguments: P.args, **options: P.kwargs) -> T:
        started = time.monotonic()
        found = whole(*arguments, **options)
        phases[name] = time.monotonic() - started
        return found

    return timed


def _merge(folder: Path) -> dict[str, Any]:
    paths = json.loads((folder / "second.json").read_text())
    made = plan_merge(
        open_store(str(folder / "out")),
        paths["items"],
        _entries(folder, "live"),
        _entries(folder, "parts"),
        schemas=_schemas(),
        run_id="second",
        target_bytes=TARGET_BYTES,
        carried_path=paths["carried"],
    )
    return {"counts": {"vectors": made.census.vectors, "missing": made.census.missing, "tasks": len(made.tasks)}}


def _entries(folder: Path, name: str) -> list[FileEntry]:
    facts = json.loads((folder / f"{name}.json").read_text())
    return [FileEntry(Table(table), *rest) for table, *rest in facts]


def _peer(folder: Path, step: str) -> dict[str, Any]:
    live = [str(folder / "out" / entry.path) for entry in _entries(folder, "live")]
    if step.startswith("DuckDB"):
        with duckdb.connect() as db:
            query = "SELECT count(*) FROM read_parquet(?) ANTI JOIN read_parquet(?) USING (id)"
            [(new,)] = db.execute(query, [str(folder / "second.parquet"), live]).fetchall()
    else:
        items = pq.read_table(folder / "second.parquet", columns=["id"])
        new = items.join(ds.dataset(live).to_table(columns=["id"]), "id", join_type="left anti").num_rows
    return {"counts": {"new": new}}


if __name__ == "__main__":
    main()
