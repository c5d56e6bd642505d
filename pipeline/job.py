"""The command line that every job shares: `--config`, `--set`, `--print-config`, `--plan`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel

from pipeline.config import Config
from pipeline.config_files import load_config, redacted
from pipeline.console import ends_quietly
from pipeline.errors import ExitCode, LakevecError
from pipeline.evaluate_config import EvaluateConfig
from pipeline.rerank.config import RerankConfig
from pipeline.retrieve_config import RetrieveConfig
from pipeline.speech import guard_process, plain, say

__all__ = ["EMBED", "EVALUATE", "RERANK", "RETRIEVE", "Job", "run_job"]

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Job(Generic[M]):
    """A kind of job: its config, how it runs (config, job name → exit code), and what `--plan` says of it.

    Ray takes a second to import; --print-config and bad configs do without, so both functions import what they need.
    """

    config: type[M]
    run: Callable[[M, str], ExitCode]
    plan: Callable[[M], str]


def _embed(config: Config, name: str) -> ExitCode:
    from pipeline.flow import embed_corpus

    return embed_corpus(config, name)


def _plan_embed(config: Config) -> str:
    from pipeline.preview import preview

    return preview(config)


def _evaluate(config: EvaluateConfig, name: str) -> ExitCode:
    from pipeline.evaluate import evaluate_retrieval

    return evaluate_retrieval(config, name)


def _plan_evaluate(config: EvaluateConfig) -> str:
    from pipeline.evaluate import plan_evaluation

    return plan_evaluation(config)


def _rerank(config: RerankConfig, name: str) -> ExitCode:
    from pipeline.rerank.flow import rerank_candidates

    return rerank_candidates(config, name)


def _plan_rerank(config: RerankConfig) -> str:
    from pipeline.rerank.flow import plan_rerank

    return plan_rerank(config)


def _retrieve(config: RetrieveConfig, name: str) -> ExitCode:
    from pipeline.retrieve import retrieve_candidates

    return retrieve_candidates(config, name)


def _plan_retrieve(config: RetrieveConfig) -> str:
    from pipeline.retrieve import plan_retrieval

    return plan_retrieval(config)


EMBED = Job(Config, _embed, _plan_embed)
RERANK = Job(RerankConfig, _rerank, _plan_rerank)
EVALUATE = Job(EvaluateConfig, _evaluate, _plan_evaluate)
RETRIEVE = Job(RetrieveConfig, _retrieve, _plan_retrieve)


@ends_quietly
def run_job(name: str, description: str, arguments: Sequence[str], job: Job[Any] = EMBED) -> int:
    """Parse `arguments` and run `job` as `name`; returns the process's exit status (`errors.ExitCode`)."""
    options = _parser(name, description).parse_args(arguments)
    guard_process("%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("lakevec").setLevel(logging.INFO)
    try:
        config = load_config(options.config, options.overrides, job.config)
        if options.print_config:
            yaml.safe_dump(redacted(config), sys.stdout, sort_keys=False, allow_unicode=True)
            return ExitCode.COMPLETE
        if options.plan:
            say(job.plan(config))
            return ExitCode.COMPLETE
        return job.run(config, name)
    except LakevecError as error:
        print(plain(f"{name}: {error}"), file=sys.stderr)
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
