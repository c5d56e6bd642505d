"""The candidate lists in the output of `retrieve_candidates`: those of its newest run that ended well.

In: the output. Out: the Parquet files of one run, or nothing where no run has written lists. Refused with
ManifestError: an output whose runs were all stopped, or are still under way.
"""

from __future__ import annotations

import json

from pipeline.errors import ExitCode, ManifestError
from pipeline.storage import Store

__all__ = ["CANDIDATES_FOLDER", "RUN_COPY", "newest_lists"]

CANDIDATES_FOLDER = "candidates"
RUN_COPY = "run.trec"
"""The lists of a run once more, written last."""

_RUN_FOLDER = "run="


def newest_lists(store: Store) -> tuple[str, ...]:
    """Paths of the newest complete run's lists, relative to `store`; none where it holds no run. Raises ManifestError.

    A run is complete when its TREC file is there or its summary says so: it may have been told to write no TREC file.
    """
    runs: dict[str, list[str]] = {}
    for stored in store.list(CANDIDATES_FOLDER):
        parts = stored.path.split("/")
        if len(parts) == 3 and parts[1].startswith(_RUN_FOLDER):
            runs.setdefault(parts[1].removeprefix(_RUN_FOLDER), []).append(stored.path)
    # A run's id begins with the time of its start.
    for run_id in sorted(runs, reverse=True):
        if any(path.endswith(f"/{RUN_COPY}") for path in runs[run_id]) or _ended_well(store, run_id):
            return tuple(path for path in runs[run_id] if path.endswith(".parquet"))
    if runs:
        raise ManifestError(
            f"{store.root} holds no whole candidate lists: none of its {len(runs)} runs ended; run retrieve_candidates "
            "again, or name the files of one run"
        )
    return ()


def _ended_well(store: Store, run_id: str) -> bool:
    try:
        summary = json.loads(store.read(f"reports/{run_id}/summary.json"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(summary.get("exit_code") == ExitCode.COMPLETE)
