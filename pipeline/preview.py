"""Previews: what a job would do and cost (`--plan`), and what the model would see of one item (`lakevec render`).

Nothing is written to the output and no model is loaded.
"""

from __future__ import annotations

import tempfile
from functools import partial

from pipeline.config import MIB, Config
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import ManifestError
from pipeline.estimate import Estimate, Spread, estimate
from pipeline.fetch import Fetcher
from pipeline.index.log import Log
from pipeline.plan import Plan, make_plan
from pipeline.preparation import Preparation
from pipeline.prepare import Preparer
from pipeline.render import render
from pipeline.run import Run, continue_index, new_run_id, open_run, placed
from pipeline.storage import open_store
from pipeline.tokenizer import PromptTokenizer
from pipeline.types import WorkItem

__all__ = ["preview", "render_item"]


def preview(config: Config) -> str:
    """What running `config` now would do, and a cost estimate from a sample that is really fetched and prepared.

    Raises what the job itself would raise before it loads the model.
    """
    run = placed(open_run(config, new_run_id(), uploaded=False))
    state = Log(run.store).state()
    run = continue_index(run, state)
    with tempfile.TemporaryDirectory(prefix="lakevec-preview-") as folder:
        work_store = open_store(folder, {})
        plan = make_plan(
            config,
            run.manifest,
            run.store,
            run_id=run.run_id,
            compute_fingerprint=run.compute_fingerprint,
            live=state.live,
            parts=state.parts_where(**run.kind),
            recompute=run.continuation.recompute,
            work_store=work_store,
        )
        with Fetcher(run.policy) as fetcher, _decode_pool(run) as pool:
            cost = estimate(
                plan,
                work_store,
                load_many=fetcher.load_many,
                prepare=partial(Preparation(pool).one, maker=_preparer(run)),
                specs=config.output.vectors,
                hidden_dim=run.checkpoint.hidden_dim,
            )
    return _report(config, run, plan, cost)


def render_item(config: Config, item_id: str) -> str:
    """The exact prompt, token count and frames of the manifest's item `item_id`.

    Raises ManifestError if there is no such item, RejectError if it has no prompt.
    """
    run = open_run(config, new_run_id(), uploaded=False)
    for batch in run.manifest.batches():
        for row in batch.rows:
            if row.id == item_id:
                item = WorkItem(
                    row.id, row.texts, row.media, row.instruction, row.fps, row.max_frames, "", batch.file, row.row, 0
                )
                with Fetcher(run.policy) as fetcher, _decode_pool(run) as pool:
                    prepared = Preparation(pool).one(fetcher.load(item), _preparer(run))
                return render(prepared, PromptTokenizer(run.checkpoint.folder))
    raise ManifestError(f"the manifest {config.manifest.path} has no item {item_id!r}")


def _preparer(run: Run) -> Preparer:
    return Preparer(PromptTokenizer(run.checkpoint.folder), run.config.inputs)


def _decode_pool(run: Run) -> DecodePool:
    return DecodePool(partial(equip_drafter, run.config.inputs, run.config.decode), run.config.decode)


def _report(config: Config, run: Run, plan: Plan, cost: Estimate) -> str:
    counts = plan.counts
    modalities = ", ".join(f"{n} {kind}" for kind, n in cost.by_modality.items() if n) or "nothing"
    vectors = ", ".join(f"{name} {n / MIB:.2f} MiB" for name, n in cost.vector_bytes.items())
    lines = [
        f"manifest   {run.manifest.path}: {counts.items} items {_in_files(run)}",
        *([f"left out   {run.manifest.left_out}"] if run.manifest.skipped else []),
        f"output     {run.store.root}",
        f"model      {run.config.model.path} ({run.checkpoint.identity})",
        f"items      {counts.new} new, {counts.changed} changed, {counts.carried} with other carried values, "
        f"{counts.unchanged} unchanged, {counts.deleted} deleted, "
        f"{counts.retryable} to retry, {counts.recomputed} to recompute, {counts.resumed} done by an unfinished run, "
        f"{counts.duplicates} of a content that another item has",
        f"to do      {counts.to_do} items: {modalities}",
        f"sample     {cost.sampled} items prepared in {cost.sample_s:.1f} s",
        f"text       {_tokens(cost.text_tokens)}",
        f"visual     {_tokens(cost.visual_tokens)}",
        f"vectors    {vectors}, uncompressed",
    ]
    how = run.continuation
    if run.config.output.path != config.output.path:
        lines.append(
            f"index      {config.output.path} holds another kind and stays as it is; this config's lies beside it"
        )
    if how.recompute:
        lines.append(f"index      all is embedded again, none of the old vectors stays: {how.why}")
    if how.derivation:
        made = (f"{column.spec.name} from {column.source}" for column in how.derivation.columns)
        lines.append(f"index      every row is written anew, without the model: {', '.join(made)}; {how.why}")
    if cost.rejects:
        rejects = ", ".join(f"{code} {n}" for code, n in sorted(cost.rejects.items()))
        lines.append(f"rejects    in the sample: {rejects}")
    return "\n".join(lines)


def _in_files(run: Run) -> str:
    return f"in {len(run.manifest.files)} files" if run.manifest.files else "listed there"


def _tokens(spread: Spread) -> str:
    return (
        f"{spread.total:.0f} ± {spread.total_error:.0f} tokens; an item {spread.mean:.0f}, 95 % below {spread.p95:.0f}"
    )
