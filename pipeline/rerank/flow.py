"""The flow of `rerank_candidates`: plan, stream, commit, reconcile, rank, snapshot. Runs in the job's driver."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.config import MIB
from pipeline.driving import drive, judge, status_of, sweep, timed
from pipeline.errors import ExitCode
from pipeline.index.claim import Claim
from pipeline.index.collect import sweep_work
from pipeline.index.commits import FileEntry
from pipeline.index.log import Log
from pipeline.kind import check_same_kind
from pipeline.progress import Progress
from pipeline.provenance import score_metadata
from pipeline.rerank.config import RerankConfig
from pipeline.rerank.plan import RerankPlan, make_rerank_plan
from pipeline.rerank.run import RerankRun, open_rerank_run
from pipeline.run import new_run_id
from pipeline.stages.chain import Chain, Step, part_items
from pipeline.stages.committer import Committer
from pipeline.stages.meter import Reading, start_meter
from pipeline.stages.no_progress import no_progress_timeout_s
from pipeline.stages.pair_work import PairWork
from pipeline.stages.passes import Passes
from pipeline.stages.pools import Pools, size_pools
from pipeline.stages.prepare_pairs import PreparePairsStage
from pipeline.stages.preparing import PrepareSettings
from pipeline.stages.publish_scores import ScoreTable, publish_scores
from pipeline.stages.score import ScoreSettings, ScoreStage
from pipeline.stages.session import ray_session, uploaded_working_dir
from pipeline.stages.shared_paths import check_shared_paths
from pipeline.stages.window_limits import WindowLimits
from pipeline.stages.write_scores import WriteScoresSettings, write_scores
from pipeline.stop import StopRequest
from pipeline.storage import Store, open_store
from pipeline.summary import Summary

__all__ = ["plan_rerank", "rerank_candidates"]

_log = logging.getLogger("lakevec")


def rerank_candidates(config: RerankConfig, job: str) -> ExitCode:
    """Run the job to its end, write `summary.json`, and return the exit code.

    Raises LakevecError for what the user must mend; its exit code is in the summary too.
    """
    summary = Summary(new_run_id(), job, config, items_called="pairs", made="scores")
    with tempfile.TemporaryDirectory(prefix="lakevec-lists-") as scratch:
        return drive(summary, partial(_rerank, config, Path(scratch)))


def plan_rerank(config: RerankConfig) -> str:
    """What running `config` now would do. Raises what the job itself would raise before it loads the model."""
    with tempfile.TemporaryDirectory(prefix="lakevec-lists-") as scratch:
        run = open_rerank_run(config, new_run_id(), Path(scratch), uploaded=False)
        state = Log(run.store).state()
        check_same_kind(run, state)
        work = Path(scratch) / "work"
        work.mkdir()
        plan = _plan(run, state.live, state.parts_where(**run.kind), work_store=open_store(str(work), {}))
    counts = plan.counts
    return (
        f"{counts.items} pairs of {counts.queries} queries and {counts.documents} documents in {run.store.root}\n"
        f"  {counts.new} new, {counts.changed} changed, {counts.retryable} to retry: {counts.to_do} to score\n"
        f"  {counts.unchanged} unchanged, {counts.resumed} resumed, {counts.unknown} with a side in no manifest, "
        f"{counts.deleted} in the output and in no list any more"
    )


def _rerank(
    config: RerankConfig, scratch: Path, summary: Summary, stop: StopRequest, listen_again: Callable[[], None]
) -> ExitCode:
    with timed(summary, "plan"):
        run = open_rerank_run(config, summary.run_id, scratch, uploaded=uploaded_working_dir())
        summary.compute_fingerprint = run.compute_fingerprint
        check_same_kind(run, Log(run.store).state())
    with Claim.acquire(run.store, run.run_id, fingerprint=run.compute_fingerprint) as claim:
        check_same_kind(run, claim.state)
        sweep_work(claim)
        try:
            rejects = _bring_up_to_date(run, claim, summary, stop, listen_again)
        finally:
            sweep(run.store, f"_work/{run.run_id}")
    if rejects is None:
        return stop.exit_code
    lost = sum(rejects.values())
    summary.counts |= {"scores": summary.counts["items"] - lost, "rejects": lost}
    summary.rejects_by_code = rejects
    return judge(summary, lost)


def _bring_up_to_date(
    run: RerankRun, claim: Claim, summary: Summary, stop: StopRequest, listen_again: Callable[[], None]
) -> dict[str, int] | None:
    """Pairs without a score by code, once the live table has them all; None if the run was stopped first."""
    parts = claim.state.parts_where(**run.kind)
    with timed(summary, "plan"):
        plan = _plan(run, claim.state.live, parts)
    counts = plan.counts
    summary.counts = counts.as_dict()
    _log.info(
        "run %s: %d pairs of %d queries and %d documents: %d new, %d changed, %d unchanged, %d deleted, %d to retry, "
        "%d resumed, %d unknown; %d to do",
        run.run_id, counts.items, counts.queries, counts.documents, counts.new, counts.changed, counts.unchanged,
        counts.deleted, counts.retryable, counts.resumed, counts.unknown, counts.to_do,
    )  # fmt: skip
    committer = Committer(claim, summary.tally, run.info, run.config.run.commit_interval_s)
    if counts.to_do and not _score(run, plan, claim, committer, summary, stop, listen_again):
        _log.warning("%s; what is committed stays, run again to continue", stop.reason)
        return None
    table = ScoreTable(
        plan.pairs_path,
        live=claim.state.live,
        parts=[*parts, *committer.committed],
        metadata=score_metadata(run.config, run.checkpoint.identity, run.compute_fingerprint, run.run_id),
        target_bytes=int(run.config.output.target_file_mb * MIB),
    )
    with timed(summary, "commit"):
        return publish_scores(table, claim, run.info)


def _score(
    run: RerankRun,
    plan: RerankPlan,
    claim: Claim,
    committer: Committer,
    summary: Summary,
    stop: StopRequest,
    listen_again: Callable[[], None],
) -> bool:
    """Bring every pair of the work list to an outcome. False if the run was stopped first."""
    with ray_session(run.config.resources) as cluster:
        listen_again()
        check_shared_paths(run.store, run.local_inputs, cluster.node_ids, run.run_id)
        pools = size_pools(run.config.resources, cluster)
        _log.info(
            "run %s: %d preparers, %d rerankers on %s", run.run_id, pools.preparers, pools.encoders,
            f"{pools.gpus_per_encoder:g} GPU each" if pools.gpus_per_encoder else "the CPU",
        )  # fmt: skip
        summary.actors = {"prepare": pools.preparers, "encode": pools.encoders}
        with Progress() as progress:

            def show(reading: Reading) -> None:
                progress.update(status_of(summary, committer, plan.counts.to_do, reading, "score"))

            work = PairWork(_chain(run, pools, plan.counts.to_do), plan, run.store)
            passes = Passes(work, claim, committer, stop, run.config.run.block_items, show)
            with timed(summary, "run"):
                finished = passes.run()
    summary.seconds["commit"] = committer.seconds
    return finished


def _chain(run: RerankRun, pools: Pools, to_do: int) -> Chain:
    config, identity = run.config, run.checkpoint.identity
    window = WindowLimits.of(config.run)
    metadata = score_metadata(config, identity, run.compute_fingerprint, run.run_id)
    return Chain(
        prepare=Step(
            PreparePairsStage,
            PrepareSettings(run.model, identity, config.inputs, run.policy, config.decode, window),
        ),
        encode=Step(ScoreStage, ScoreSettings(run.model, identity, "cuda" if pools.gpus_per_encoder else "cpu")),
        write=Step(write_scores, WriteScoresSettings(run.store, run.run_id, metadata)),
        pools=pools,
        part_items=part_items(to_do),
        window=window,
        no_progress_s=no_progress_timeout_s(config.fetch, config.decode, sides=2, on_gpu=pools.gpus_per_encoder > 0),
        meter=start_meter(),
        task_rows=1,
    )


def _plan(
    run: RerankRun,
    live: tuple[FileEntry, ...],
    parts: tuple[FileEntry, ...],
    work_store: Store | None = None,
) -> RerankPlan:
    return make_rerank_plan(
        run.candidates,
        run.queries,
        run.documents,
        run.store,
        run_id=run.run_id,
        compute_fingerprint=run.compute_fingerprint,
        policy=run.policy,
        identity=run.config.inputs.identity,
        max_attempts=run.config.run.max_attempts,
        retry=run.config.run.retry,
        tile_pairs=run.config.run.block_items,
        live=live,
        parts=parts,
        work_store=work_store,
    )
