"""The commands about an output's earlier states: its snapshots, restoring one, collecting garbage.

In: parsed arguments and the store they name. Out: lines for people, or JSON for programs. Refused: what the library
refuses, and fewer than one snapshot to keep (ConfigError).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from pipeline.config import RunConfig
from pipeline.config_files import load_config
from pipeline.errors import ConfigError, ExitCode
from pipeline.index.collect import collect_garbage
from pipeline.index.commits import Commit, Table
from pipeline.index.files import snapshots, table_files, unreadable
from pipeline.index.garbage import Garbage
from pipeline.index.restore import restore
from pipeline.storage import Store, Stored

__all__ = ["add_history_commands"]

OpenStore = Callable[[argparse.Namespace], Store]


def add_history_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    add_output: Callable[[argparse.ArgumentParser], None],
    open_output: OpenStore,
) -> None:
    """Add `snapshots`, `restore` and `gc`; `open_output` opens the output that `add_output` asks for."""
    listing = commands.add_parser("snapshots", help="list the states of an output that can still be read, newest first")
    add_output(listing)
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=lambda options: _snapshots(options, open_output(options)))

    back = commands.add_parser("restore", help="make an earlier snapshot the newest one: what readers see")
    add_output(back)
    back.add_argument("seq", type=int, help="its number, as `lakevec snapshots` has it")
    back.set_defaults(run=lambda options: _restore(options, open_output(options)))

    gc = commands.add_parser("gc", help="delete what no retained snapshot and no resumable run needs")
    add_output(gc)
    gc.add_argument("--keep", type=int, metavar="N", help="snapshots to retain (default: run.keep_snapshots, or 7)")
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    gc.add_argument("--json", action="store_true", help="as one JSON object")
    gc.set_defaults(run=lambda options: _gc(options, open_output(options)))


def _snapshots(options: argparse.Namespace, store: Store) -> int:
    there, files = snapshots(store), table_files(store)
    for facts in (_facts(snapshot, files) for snapshot in there):
        print(json.dumps(facts) if options.json else _line(facts))
    return ExitCode.COMPLETE


def _facts(snapshot: Commit, files: list[Stored]) -> dict[str, Any]:
    rows = {str(table): sum(entry.rows for entry in snapshot.live if entry.table == table) for table in Table}
    return {
        "seq": snapshot.seq,
        "run_id": snapshot.run_id,
        "created_at": snapshot.created_at,
        "rows": {table: count for table, count in rows.items() if count},
        "files": len(snapshot.live),
        "bytes": sum(entry.bytes for entry in snapshot.live),
        "missing": unreadable(snapshot.live, files),
        "restored_from": snapshot.info.get("restored_from"),
    }


def _line(facts: dict[str, Any]) -> str:
    rows = ", ".join(f"{count} {table}" for table, count in facts["rows"].items()) or "no rows"
    origin = f", restored from {facts['restored_from']['seq']}" if facts["restored_from"] else ""
    loss = f", {len(facts['missing'])} of {facts['files']} files are gone" if facts["missing"] else ""
    return f"{facts['seq']:>8}  {facts['created_at']}  {facts['run_id']}  {rows}, {facts['bytes']} bytes{origin}{loss}"


def _restore(options: argparse.Namespace, store: Store) -> int:
    snapshot = restore(store, options.seq, _run_id("restore"))
    if snapshot.seq == options.seq:
        print(f"{store.root}: snapshot {options.seq} is the newest already")
    else:
        print(f"{store.root}: readers see snapshot {options.seq} again, as snapshot {snapshot.seq}")
    return ExitCode.COMPLETE


def _gc(options: argparse.Namespace, store: Store) -> int:
    configured = load_config(options.config, options.overrides).run if options.config else RunConfig()
    keep = configured.keep_snapshots if options.keep is None else options.keep
    if keep < 1:
        raise ConfigError(f"--keep {keep}: the newest snapshot always stays, so give 1 or more")
    garbage = collect_garbage(store, _run_id("gc"), keep=keep, dry_run=options.dry_run)
    if options.json:
        print(json.dumps(_report(garbage, options.dry_run)))
        return ExitCode.COMPLETE
    if options.dry_run:
        for file in garbage.files:
            print(store.uri(file.path))
    verb = "would be deleted" if options.dry_run else "deleted"
    total = sum(file.bytes for file in garbage.files)
    print(
        f"{len(garbage.kept)} snapshots kept, {len(garbage.dropped)} dropped; {len(garbage.files)} files"
        f" ({total} bytes) and {len(garbage.commits)} commits {verb}"
    )
    return ExitCode.COMPLETE


def _report(garbage: Garbage, dry_run: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "kept": garbage.kept,
        "dropped": garbage.dropped,
        "commits": garbage.commits,
        "files": [file.path for file in garbage.files],
        "bytes": sum(file.bytes for file in garbage.files),
    }


def _run_id(command: str) -> str:
    # Only here: it brings the whole job along, which listing snapshots does not need.
    from pipeline.run import new_run_id

    return f"{command}-{new_run_id()}"
