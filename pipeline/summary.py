"""`summary.json`: what a run did, for people and for the schedulers that only see 0 or 1."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from pipeline.config import Config
from pipeline.config_files import redacted
from pipeline.errors import ExitCode
from pipeline.provenance import library_versions
from pipeline.rerank.config import RerankConfig
from pipeline.storage import Store
from pipeline.tally import Tally

__all__ = ["PLANNED", "Summary", "config_facts", "put_summary", "run_facts", "summary_path", "write_summary"]

STATUS = {
    ExitCode.COMPLETE: "complete",
    ExitCode.FAILED: "failed",
    ExitCode.BAD_INPUT: "bad input",
    ExitCode.TOO_MANY_REJECTS: "complete, too many rejects",
    ExitCode.NOT_OURS: "refused",
    ExitCode.INCOMPLETE: "stopped early",
    ExitCode.INTERRUPTED: "interrupted",
}

PLANNED = (
    "items", "new", "changed", "carried", "unchanged", "deleted", "retryable", "resumed", "recomputed", "duplicates",
)  # fmt: skip
"""What `counts` says of a plan, by the names that `comparison.PlanCounts` has."""


@dataclass(slots=True)
class Summary:
    """What `summary.json` is made of; filled in as a run goes on, so that one that fails has what is known.

    `counts.vectors`, `counts.rejects` and `rejects_by_code` are rows of the whole index after the run; of a run that
    ended early they are its own parts. `counts.encoded`: items that went through the model in this run.
    `skipped`: objects and rows of the manifest that are no items, by reason (`manifest.layout`).
    `seconds.prepare/encode/write` add up over all actors of a stage. `items_called` and `made`: what the job's items
    are, and what becomes of them.
    """

    run_id: str
    job: str
    config: Config | RerankConfig
    items_called: str = "items"
    made: str = "vectors"
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    compute_fingerprint: str | None = None
    message: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    rejects_by_code: dict[str, int] | None = None
    skipped: dict[str, int] = field(default_factory=dict)
    actors: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self, exit_code: ExitCode, finished_at: datetime) -> dict[str, Any]:
        """The JSON document."""
        total_s = (finished_at - self.started_at).total_seconds()
        seconds = {"total": total_s, "plan": 0.0, "prepare": self.tally.prepare_s, "encode": self.tally.encode_s}
        seconds |= {"write": self.tally.write_s, "commit": 0.0} | self.seconds
        run_s = self.seconds.get("run", total_s)
        own_codes = dict(sorted(self.tally.rejects.items()))
        own = {self.made: self.tally.vectors, "rejects": self.tally.rejects.total()}
        facts = run_facts(self.run_id, self.job, exit_code, self.message, self.started_at, finished_at)
        return {
            **facts,
            "output": self.config.output.path,
            "compute_fingerprint": self.compute_fingerprint,
            "counts": dict.fromkeys(PLANNED, 0) | own | self.counts | {"encoded": self.tally.encoded},
            "rejects_by_code": own_codes if self.rejects_by_code is None else self.rejects_by_code,
            "skipped": self.skipped,
            "tokens": {
                "text": self.tally.text_tokens,
                "visual": self.tally.visual_tokens,
                "padded": round(self.tally.padded_tokens),
            },
            "packing": {"forwards": round(self.tally.forwards), "efficiency": _rounded(self.tally.packing_efficiency)},
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "throughput": {
                "items_s": round(self.tally.items / run_s, 3) if run_s > 0 else 0.0,
                "tokens_s": round(self.tally.tokens / run_s, 3) if run_s > 0 else 0.0,
            },
            "bottleneck": self._bottleneck(),
            **config_facts(self.config),
        }

    def _bottleneck(self) -> str | None:
        busy = {
            "prepare": self.tally.prepare_s / max(1, self.actors.get("prepare", 1)),
            "encode": self.tally.encode_s / max(1, self.actors.get("encode", 1)),
            "write": self.tally.write_s,
        }
        slowest = max(busy, key=lambda stage: busy[stage])
        return slowest if busy[slowest] > 0 else None


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def run_facts(
    run_id: str, job: str, exit_code: ExitCode, message: str | None, started_at: datetime, finished_at: datetime
) -> dict[str, Any]:
    """What every job's summary begins with."""
    return {
        "run_id": run_id,
        "job": job,
        "exit_code": int(exit_code),
        "status": STATUS[exit_code],
        "message": message,
        "started_at": started_at.isoformat(),
        "finished_at": finished_at.isoformat(),
    }


def config_facts(config: BaseModel) -> dict[str, Any]:
    """What every job's summary ends with: versions, and the config without its secrets."""
    return {"versions": library_versions(), "config": redacted(config)}


def summary_path(run_id: str) -> str:
    """Where a run's summary lies, relative to the output."""
    return f"reports/{run_id}/summary.json"


def write_summary(store: Store, summary: Summary, exit_code: ExitCode) -> dict[str, Any]:
    """Write `summary.json` into the output and return what it says."""
    document = summary.as_dict(exit_code, datetime.now(UTC))
    put_summary(store, document)
    return document


def put_summary(store: Store, document: dict[str, Any]) -> None:
    """Write a job's `summary.json` into its output."""
    store.put(summary_path(document["run_id"]), json.dumps(document, indent=2, ensure_ascii=False).encode())
