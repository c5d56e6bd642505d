"""The flow of `embed_corpus`: plan, stream, commit, reconcile, merge, snapshot. Runs in the job's driver."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import MIB, Config
from pipeline.driving import drive, judge, status_of, sweep, timed
from pipeline.errors import ExitCode
from pipeline.index.carried import has_other_columns
from pipeline.index.claim import Claim
from pipeline.index.collect import sweep_work
from pipeline.index.commits import FileEntry, Table
from pipeline.index.log import Log
from pipeline.index.publication import Publication, publish
from pipeline.plan import Plan, make_plan
from pipeline.progress import Progress
from pipeline.provenance import table_metadata
from pipeline.run import Run, continue_index, new_run_id, open_run, placed
from pipeline.stages.chain import Chain, Step, part_items
from pipeline.stages.committer import Committer
from pipeline.stages.embed_work import EmbedWork
from pipeline.stages.encode import EncodeSettings, EncodeStage
from pipeline.stages.meter import Reading, start_meter
from pipeline.stages.no_progress import no_progress_timeout_s
from pipeline.stages.passes import Passes
from pipeline.stages.pools import Pools, size_pools
from pipeline.stages.prepare import PrepareStage
from pipeline.stages.preparing import PrepareSettings
from pipeline.stages.publish import merge_tasks
from pipeline.stages.session import ray_session, uploaded_working_dir
from pipeline.stages.shared_paths import check_shared_paths
from pipeline.stages.window_limits import WindowLimits
from pipeline.stages.write import WriteSettings, write_outcomes
from pipeline.stop import StopRequest
from pipeline.summary import PLANNED, Summary

__all__ = ["embed_corpus"]

_log = logging.getLogger("lakevec")


def embed_corpus(config: Config, job: str) -> ExitCode:
    """Run the job to its end, write `summary.json`, and return the exit code.

    Raises LakevecError for what the user must mend; its exit code is in the summary too.
    """
    return drive(Summary(new_run_id(), job, config), partial(_embed, config))


def _embed(config: Config, summary: Summary, stop: StopRequest, listen_again: Callable[[], None]) -> ExitCode:
    with timed(summary, "plan"):
        run = open_run(config, summary.run_id, uploaded=uploaded_working_dir())
        summary.compute_fingerprint = run.compute_fingerprint
        run = placed(run)
        summary.config = run.config
    with Claim.acquire(run.store, run.run_id, fingerprint=run.compute_fingerprint) as claim:
        run = continue_index(run, claim.state)
        if run.continuation.why:
            what = "every item is embedded again" if run.continuation.recompute else "vectors are made from stored ones"
            _log.info("run %s: %s: %s %s", run.run_id, what, run.store.root, run.continuation.why)
        sweep_work(claim)
        _log.info("run %s: reading the manifest %s", run.run_id, run.manifest.path)
        try:
            live = _bring_up_to_date(run, claim, summary, stop, listen_again)
        finally:
            sweep(run.store, f"_work/{run.run_id}")
    return stop.exit_code if live is None else _judge(run, live, summary)


def _bring_up_to_date(
    run: Run, claim: Claim, summary: Summary, stop: StopRequest, listen_again: Callable[[], None]
) -> tuple[FileEntry, ...] | None:
    """The live set that accounts for the whole manifest, None if the run was stopped first."""
    with timed(summary, "plan"):
        plan = make_plan(
            run.config,
            run.manifest,
            run.store,
            run_id=run.run_id,
            compute_fingerprint=run.compute_fingerprint,
            live=claim.state.live,
            parts=claim.state.parts_where(**run.kind),
            recompute=run.continuation.recompute,
        )
    counts = plan.counts
    summary.counts = {name: getattr(counts, name) for name in PLANNED}
    summary.skipped = run.manifest.skipped
    if summary.skipped:
        _log.info("run %s: the manifest's layout leaves out %s", run.run_id, run.manifest.left_out)
    _log.info(
        "run %s: %d items: %d new, %d changed, %d with other carried values, %d unchanged, %d deleted, %d to retry, "
        "%d to recompute, %d resumed, %d of a content that another has; %d to do",
        run.run_id, counts.items, counts.new, counts.changed, counts.carried, counts.unchanged, counts.deleted,
        counts.retryable, counts.recomputed, counts.resumed, counts.duplicates, counts.to_do,
    )  # fmt: skip
    to_merge = counts.deleted or counts.resumed or counts.duplicates or counts.carried or run.continuation.derivation
    to_rewrite = to_merge or has_other_columns(run.store, claim.state.live, plan.carry)
    if claim.state.snapshot and not (counts.to_do or to_rewrite):
        return claim.state.live
    with ray_session(run.config.resources) as cluster:
        listen_again()
        check_shared_paths(run.store, _local_inputs(run), cluster.node_ids, run.run_id)
        pools = size_pools(run.config.resources, cluster)
        _log.info(
            "run %s: %d preparers, %d encoders on %s", run.run_id, pools.preparers, pools.encoders,
            f"{pools.gpus_per_encoder:g} GPU each" if pools.gpus_per_encoder else "the CPU",
        )  # fmt: skip
        if not _carry_out(run, plan, claim, pools, summary, stop):
            _log.warning("%s; what is committed stays, run again to continue", stop.reason)
            return None
    return Log(run.store).state().live


def _carry_out(run: Run, plan: Plan, claim: Claim, pools: Pools, summary: Summary, stop: StopRequest) -> bool:
    config, specs, hidden_dim = run.config, run.config.output.vectors, run.checkpoint.hidden_dim
    metadata = table_metadata(config, run.checkpoint.identity, run.compute_fingerprint, hidden_dim, run.run_id)
    summary.actors = {"prepare": pools.preparers, "encode": pools.encoders}
    committer = Committer(claim, summary.tally, run.info, config.run.commit_interval_s)
    chain = _chain(run, plan, pools, metadata)
    with Progress() as progress:

        def show(reading: Reading, phase: str = "encode") -> None:
            progress.update(status_of(summary, committer, plan.counts.to_do, reading, phase))

        work = EmbedWork(chain, plan, run.store)
        passes = Passes(work, claim, committer, stop, config.run.block_items, show)
        with timed(summary, "run"):
            finished = plan.counts.to_do == 0 or passes.run()
        summary.seconds["commit"] = committer.seconds
        if not finished:
            return False
        done = Reading(plan.counts.to_do, plan.counts.to_do)

        def merging(merged: int, files: int) -> None:
            show(done, f"merge {merged}/{files}")
            # A run that has only this left outlives its time budget: it would run out of the same time every night.
            if plan.counts.to_do or stop.signalled:
                stop.check()

        publication = Publication(
            items_path=plan.items_path,
            carried_path=plan.carried_path,
            live=() if run.continuation.recompute else claim.state.live,
            replaced=claim.state.live if run.continuation.recompute else (),
            derivation=run.continuation.derivation,
            compute=run.compute_facts,
            parts=[*claim.state.parts_where(**run.kind), *committer.committed],
            specs=specs,
            hidden_dim=hidden_dim,
            carry=plan.carry,
            id_type=plan.id_type,
            metadata=metadata,
            target_bytes=int(config.output.target_file_mb * MIB),
        )
        with timed(summary, "commit"), stop.patiently():
            publish(publication, claim, lambda tasks: merge_tasks(run.store, tasks, merging))
    return True


def _chain(run: Run, plan: Plan, pools: Pools, metadata: dict[str, str]) -> Chain:
    config, specs = run.config, run.config.output.vectors
    window = WindowLimits.of(config.run)
    prepare = PrepareSettings(run.model, run.checkpoint.identity, config.inputs, run.policy, config.decode, window)
    encode = EncodeSettings(
        run.model,
        run.checkpoint.identity,
        specs,
        plan.carry,
        config.inputs.dedupe,
        "cuda" if pools.gpus_per_encoder else "cpu",
    )
    return Chain(
        prepare=Step(PrepareStage, prepare),
        encode=Step(EncodeStage, encode),
        write=Step(
            write_outcomes,
            WriteSettings(run.store, run.run_id, plan.id_type, plan.carry, specs, run.checkpoint.hidden_dim, metadata),
        ),
        pools=pools,
        part_items=part_items(plan.counts.to_do),
        window=window,
        no_progress_s=no_progress_timeout_s(config.fetch, config.decode, on_gpu=pools.gpus_per_encoder > 0),
        meter=start_meter(),
    )


def _judge(run: Run, live: tuple[FileEntry, ...], summary: Summary) -> ExitCode:
    rows = Counter({Table.VECTORS: 0, Table.REJECTS: 0})
    for entry in live:
        rows[entry.table] += entry.rows
    summary.counts |= {"vectors": rows[Table.VECTORS], "rejects": rows[Table.REJECTS]}
    summary.rejects_by_code = _rejects_by_code(run, live)
    return judge(summary, rows[Table.REJECTS])


def _rejects_by_code(run: Run, live: tuple[FileEntry, ...]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for entry in live:
        if entry.table == Table.REJECTS:
            with run.store.open_input(entry.path) as file:
                codes = pq.read_table(file, columns=["code"]).column("code")
            found.update({str(row["values"]): row["counts"] for row in pc.value_counts(codes).to_pylist()})
    return dict(sorted(found.items()))


def _local_inputs(run: Run) -> list[str]:
    found = [file.uri for file in run.manifest.files[:1]]
    if run.checkpoint.identity.startswith("local:"):
        found.append(run.model.path)
    return found + (list(run.policy.roots) if "file" in run.policy.schemes else [])
