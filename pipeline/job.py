"""The command line that every job shares: `--config`, `--set`, `--print-config`, `--plan`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import yaml

from pipeline.config import load_config, redacted
from pipeline.console import ends_quietly
from pipeline.errors import ExitCode, LakevecError

__all__ = ["run_job"]


@ends_quietly
def run_job(name: str, description: str, arguments: Sequence[str]) -> int:
    """Parse `arguments` and run job `name`; returns the process's exit status (`errors.ExitCode`)."""
    options = _parser(name, description).parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("lakevec").setLevel(logging.INFO)
    try:
        config = load_config(options.config, options.overrides)
        if options.print_config:
            yaml.safe_dump(redacted(config), sys.stdout, sort_keys=False, allow_unicode=True)
            return ExitCode.COMPLETE
        if options.plan:
            from pipeline.preview import preview

            print(preview(config))
            return ExitCode.COMPLETE
        # Ray takes a second to import; --print-config and bad configs do without.
        from pipeline.flow import embed_corpus

        return embed_corpus(config, name)
    except LakevecError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="the job's YAML config")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY.PATH=VALUE",
        help="override one key; the value is YAML; may be given several times",
    )  # fmt: skip
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and exit")
    parser.add_argument("--plan", action="store_true", help="say what would be done and what it costs, and do nothing")
    return parser
