#!/usr/bin/env python3
"""Rerank candidate lists: read queries, documents and lists of both, write a score for every pair, and ranks.

    python jobs/rerank_candidates.py --config configs/rerank.yaml [--set key.path=value ...]
    ray job submit --working-dir . -- python jobs/rerank_candidates.py --config configs/rerank.yaml

Running it again with the same config resumes or does nothing. Exit codes: 0 complete; 2 bad config, lists or manifest;
3 complete, but more rejects than run.max_reject_fraction; 4 the output belongs to another live run or holds something
else; 5 stopped early, run again to continue; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A script's own folder is on the path, its repository is not: the job must run from a checkout without an install.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.console import leave
from pipeline.job import RERANK, run_job

if __name__ == "__main__":
    leave(run_job("rerank_candidates", __doc__ or "", sys.argv[1:], RERANK))
