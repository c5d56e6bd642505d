"""The `lakevec` command: what a user asks about an index, an item, a model or a machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from pipeline.config import Config
from pipeline.config_files import load_config
from pipeline.console import ends_quietly
from pipeline.errors import ConfigError, ExitCode, LakevecError, RejectError
from pipeline.history import add_history_commands
from pipeline.speech import guard_process, plain, say
from pipeline.storage import Store, open_store

__all__ = ["main"]

_WIDE_CHARS = 200
"""A table's width where no terminal has one: rich would take 80, and cut ids."""


@ends_quietly
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 good, 1 something is wrong, 2 bad input."""
    options = _parser().parse_args(arguments)
    guard_process("%(levelname)s %(message)s")
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except LakevecError as error:
        print(plain(f"lakevec: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lakevec", description="Look into lakevec indexes, items, models, machines.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    files = commands.add_parser("files", help="list the live files of an index, one a line")
    _add_output(files)
    files.add_argument(
        "--table", choices=["vectors", "rejects", "scores"], help="default: scores where it holds some, else vectors"
    )
    files.add_argument(
        "--snapshot", type=int, metavar="SEQ", help="as an earlier snapshot has it (default: the newest)"
    )
    files.add_argument("--json", action="store_true", help="with rows, bytes and checksum")
    files.set_defaults(run=_files)

    verify = commands.add_parser("verify", help="check every promise that an index makes")
    _add_output(verify)
    verify.set_defaults(run=_verify)
    add_history_commands(commands, _add_output, _store)

    render = commands.add_parser("render", help="show the exact prompt, token count and frames of an item")
    render.add_argument("config")
    render.add_argument("--id", required=True, dest="item_id")
    _add_overrides(render)
    render.set_defaults(run=_render)

    doctor = commands.add_parser("doctor", help="say what is wrong on this machine and how to mend it")
    doctor.add_argument("config", nargs="?")
    _add_overrides(doctor)
    doctor.set_defaults(run=_doctor)

    parity = commands.add_parser("parity", help="compare our path with the stock transformers path on a model")
    parity.add_argument("model")
    parity.add_argument("--revision")
    parity.set_defaults(run=_parity)
    _add_search(commands.add_parser("search", help="rank an index's items by words or pictures"))
    return parser


def _add_search(search: argparse.ArgumentParser) -> None:
    _add_output(search)
    search.add_argument("--text", help="the query's words")
    search.add_argument(
        "--image", action="append", default=[], help="a picture: path or URI; may be given several times"
    )
    search.add_argument("--instruction", help="what the query is for, if not the model's own default")
    search.add_argument("-k", type=int, default=10, help="how many items (default 10)")
    search.add_argument("--filter", help="a condition on the other columns: lang = 'de' AND year >= 2020")
    search.add_argument("--vector", help="the vector column (default: the index's first)")
    search.add_argument("--model", help="the model, where it is no longer what the index's files name")
    search.add_argument("--revision")
    search.add_argument("--json", action="store_true", help="one JSON object a line")
    search.set_defaults(run=_search)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="the index: what the config calls output.path")
    parser.add_argument("--config", help="a config whose fetch.storage_options reach the output")
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE")


def _store(options: argparse.Namespace) -> Store:
    if options.overrides and not options.config:
        raise ConfigError("--set changes a config: give --config too")
    config = load_config(options.config, options.overrides) if options.config else None
    from pipeline.run import check_reachable

    store = open_store(options.output, config.fetch.storage_options if config else {})
    check_reachable(store)
    return store


def _files(options: argparse.Namespace) -> int:
    from pipeline.index.files import live_files

    store = _store(options)
    for entry in live_files(store, options.table, options.snapshot):
        uri = store.uri(entry.path)
        print(json.dumps(asdict(entry) | {"uri": uri}) if options.json else uri)
    return ExitCode.COMPLETE


def _verify(options: argparse.Namespace) -> int:
    from pipeline.index.verify import verify

    violations = verify(_store(options))
    for violation in violations:
        say(str(violation))
    print(f"{len(violations)} violations" if violations else "every invariant holds")
    return ExitCode.FAILED if violations else ExitCode.COMPLETE


def _render(options: argparse.Namespace) -> int:
    from pipeline.preview import render_item

    try:
        say(render_item(load_config(options.config, options.overrides), options.item_id))
    except RejectError as error:
        say(f"item {options.item_id} has no prompt: {error}; {error.code.meaning.action}")
        return ExitCode.FAILED
    return ExitCode.COMPLETE


def _doctor(options: argparse.Namespace) -> int:
    from pipeline.doctor import diagnose

    config: Config | None = load_config(options.config, options.overrides) if options.config else None
    findings = diagnose(config)
    for finding in findings:
        say(f"{ {True: 'ok  ', False: 'BAD ', None: '-   '}[finding.ok] } {finding.name}: {finding.detail}")
        if finding.ok is False and finding.advice:
            print(f"       {finding.advice}")
    return ExitCode.FAILED if any(finding.ok is False for finding in findings) else ExitCode.COMPLETE


def _search(options: argparse.Namespace) -> int:
    from rich.console import Console

    from pipeline.hit_table import hit_line, hit_table
    from pipeline.retrieval.vector_index import open_index
    from pipeline.search import Query, embed_query, search, settle_search

    if options.text is None and not options.image:
        raise ConfigError("nothing is asked for: give --text or --image")
    if options.k < 1:
        raise ConfigError(f"-k {options.k} is no number of items: give 1 or more")
    item = {"text": options.text, "image": options.image or None, "instruction": options.instruction}
    index = open_index(_store(options))
    # What does not fit is said before the model is loaded.
    retrieval = settle_search(index, options.vector or index.specs[0].name, options.k, options.filter)
    hits = search(retrieval, embed_query(index, Query(item, options.model, options.revision)))
    if options.json:
        for hit in hits:
            print(hit_line(hit))
    else:
        Console(width=None if sys.stdout.isatty() else _WIDE_CHARS).print(hit_table(hits))
    return ExitCode.COMPLETE


def _parity(options: argparse.Namespace) -> int:
    from pipeline.parity import run_parity

    rows = run_parity(options.model, revision=options.revision)
    for row in rows:
        ids = "ids equal" if row.ids_equal else "IDS DIFFER"
        print(f"{'ok ' if row.ok else 'BAD'} {row.sample:<24} {ids}  max|Δ| {row.max_abs:.2e}  cosine {row.cosine:.8f}")
    return ExitCode.COMPLETE if all(row.ok for row in rows) else ExitCode.FAILED
