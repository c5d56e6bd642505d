#!/usr/bin/env python3
"""Retrieve candidates: query vectors × corpus vectors → the k nearest documents of every query, exactly.

    python jobs/retrieve_candidates.py --config configs/retrieve.yaml [--set key.path=value ...]
    ray job submit --working-dir . -- python jobs/retrieve_candidates.py --config configs/retrieve.yaml

Every run writes lists of its own, <output>/candidates/run=<run_id>/, complete once run.trec is there. Exit codes:
0 complete; 1 something failed; 2 bad config or input; 5 stopped early, run again; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A script's own folder is on the path, its repository is not: the job must run from a checkout without an install.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.console import leave
from pipeline.job import RETRIEVE, run_job

if __name__ == "__main__":
    leave(run_job("retrieve_candidates", __doc__ or "", sys.argv[1:], RETRIEVE))
