#!/usr/bin/env python3
"""Evaluate retrieval: runs against judgements, compared with a baseline; and what smaller vectors keep of it.

    python jobs/evaluate_retrieval.py --config configs/evaluate.yaml [--set key.path=value ...]

Writes tables, measures.json and a picture under <output.path>/evaluation/<run_id>/. docs/EVALUATION.md says how to read
them. Exit codes: 0 complete; 2 bad config, judgements, runs or vectors; 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A script's own folder is on the path, its repository is not: the job must run from a checkout without an install.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.console import leave
from pipeline.job import EVALUATE, run_job

if __name__ == "__main__":
    leave(run_job("evaluate_retrieval", __doc__ or "", sys.argv[1:], EVALUATE))
