"""A run: everything that is settled before the first item is touched, all of it checked without loading the model."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import Config, ModelConfig
from pipeline.errors import ConfigError, ManifestError, OwnershipError, scrub
from pipeline.fingerprint import compute_facts, compute_fingerprint
from pipeline.index.carried import settled, stored_carry
from pipeline.index.log import Log
from pipeline.index.snapshot import kind_info
from pipeline.index.state import IndexState
from pipeline.kind import SAME_KIND, Continuation, beside, continuation
from pipeline.manifest.arrow_types import has_empty_struct
from pipeline.manifest.manifest import Manifest, open_manifest
from pipeline.policy import FetchPolicy
from pipeline.quantize import check_specs
from pipeline.storage import Store, open_store
from pipeline.template import TEMPLATE_VERSION
from pipeline.tokenizer import PromptTokenizer

_log = logging.getLogger("lakevec")

REACH_DEADLINE_S = 10.0
"""Bad configs end in seconds: a store that does not answer once within this is out of reach."""

__all__ = [
    "Run",
    "check_carry",
    "check_lasting",
    "check_reachable",
    "check_read_by_ray",
    "continue_index",
    "new_run_id",
    "open_run",
    "placed",
    "settled_model",
]


@dataclass(frozen=True, slots=True)
class Run:
    """One process's attempt at a job. `compute_fingerprint` covers everything but the items and the vector specs.

    `continuation`: how it goes on with the index that is there, once that is read. `is_beside`: its output was placed
    beside `output.path`, which holds another kind.
    """

    run_id: str
    config: Config
    store: Store
    manifest: Manifest
    checkpoint: Checkpoint
    compute_fingerprint: str
    continuation: Continuation = SAME_KIND
    is_beside: bool = False

    @property
    def kind(self) -> dict[str, Any]:
        """What commits record of their rows besides the fingerprint: only equal ones may share an index."""
        return kind_info(self.config.output.vectors, self.checkpoint.hidden_dim, self.manifest.id_type)

    @property
    def info(self) -> dict[str, Any]:
        """What commits record of the run: its kind, and the facts behind its compute fingerprint."""
        return self.kind | {"compute": self.compute_facts}

    @property
    def compute_facts(self) -> dict[str, Any]:
        """What `compute_fingerprint` is of, by config key."""
        return compute_facts(
            model_identity=self.checkpoint.identity,
            model=self.config.model,
            template_version=TEMPLATE_VERSION,
            inputs=self.config.inputs,
        )

    @property
    def hidden_dim(self) -> int:
        """Length of the model's vectors before any cut."""
        return self.checkpoint.hidden_dim

    @property
    def policy(self) -> FetchPolicy:
        """What this run may read, and how."""
        return FetchPolicy.of(self.config.fetch, self.manifest.folder)

    @property
    def model(self) -> ModelConfig:
        """`config.model` as workers must resolve it: the same folder from anywhere, the same commit at any time."""
        return settled_model(self.config.model, self.checkpoint)


def new_run_id() -> str:
    """A name for this process start: sorts by time, safe in paths, never reused."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


def open_run(config: Config, run_id: str, *, uploaded: bool) -> Run:
    """Open output, manifest, tokenizer and model folder.

    `uploaded`: the current directory was uploaded with the job and vanishes with it. Raises ConfigError or
    ManifestError, in seconds, for anything that would stop the job later.
    """
    check_lasting(config.output.path, uploaded=uploaded)
    store = open_store(config.output.path, config.fetch.storage_options)
    check_read_by_ray(store)
    check_reachable(store)
    manifest = open_manifest(
        config.manifest, config.fetch.storage_options, vectors=config.output.vectors, output=config.output.path
    )
    checkpoint = resolve_checkpoint(config.model, weights=False)
    PromptTokenizer(checkpoint.folder)
    check_specs(config.output.vectors, checkpoint.hidden_dim)
    fingerprint = compute_fingerprint(
        model_identity=checkpoint.identity,
        model=config.model,
        template_version=TEMPLATE_VERSION,
        inputs=config.inputs,
    )
    return Run(run_id, config, store, manifest, checkpoint, fingerprint)


def placed(run: Run) -> Run:
    """`run`, its output beside `output.path` where the index there is of another kind and the config wants that.

    Raises OwnershipError if the index is of another kind and the config says nothing of it, and ConfigError where
    nothing can lie beside it.
    """
    how = continuation(run, Log(run.store).state())
    if not how.beside:
        return run
    path = beside(run.config.output.path, run.compute_fingerprint)
    _log.info(
        "run %s: the index goes to %s, since %s holds another kind: %s", run.run_id, path, run.store.root, how.why
    )
    output = run.config.output.model_copy(update={"path": path})
    store = open_store(path, run.config.fetch.storage_options)
    check_reachable(store)
    return replace(run, config=run.config.model_copy(update={"output": output}), store=store, is_beside=True)


def settled_model(model: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """`model`, resolved to `checkpoint`, as workers must resolve it."""
    if checkpoint.identity.startswith("local:"):
        return model.model_copy(update={"path": str(checkpoint.folder)})
    _, _, commit = checkpoint.identity.partition("@")
    return model.model_copy(update={"revision": commit.partition(":")[0]})


def check_lasting(output: str, *, uploaded: bool) -> None:
    """Raise ConfigError if what the job writes to `output` is lost with it; `uploaded` as in `open_run`."""
    if uploaded and "://" not in output and not Path(output).is_absolute():
        raise ConfigError(
            f"output.path {output!r} is relative, and this job's working directory was uploaded: what it "
            "writes there is lost with the job; give an absolute path that every node shares, or s3://…"
        )


def continue_index(run: Run, state: IndexState) -> Run:
    """`run`, its `continuation` settled, its carried columns of types that continue those of the index in `state`.

    Raises OwnershipError if the index holds vectors of another kind (see `kind`), and ManifestError for a carried
    column of which neither has a type that Parquet can hold.
    """
    how = continuation(run, state)
    # Beside an index two configs that differ in their vectors alone would take turns at the same one.
    if how.beside or (run.is_beside and how.derivation):
        raise OwnershipError(
            f"{run.store.root} holds another kind of index too: {how.why}; give this job another output.path"
        )
    carry = settled(run.manifest.carry, stored_carry(run.store, state.live))
    check_carry(carry, run.manifest.path)
    return replace(run, manifest=run.manifest.with_carry(carry), continuation=how)


def check_carry(carry: Sequence[pa.Field], manifest: str) -> None:
    """Raise ManifestError for a carried column of `manifest` whose type Parquet cannot hold."""
    for field in carry:
        if has_empty_struct(field.type):
            raise ManifestError(
                f"column {field.name!r} (carry) of the manifest {manifest} is {field.type}: Parquet cannot hold a "
                "struct without members; give one of its rows a member, or leave the column out of manifest.carry"
            )


def check_read_by_ray(store: Store) -> None:
    """Raise ConfigError if Ray's tasks would find no work list in `store`."""
    # Ray 2.60 takes what stands behind a `?` for a version, and looks for `.parquet` in front of it.
    if "?" in store.base:
        raise ConfigError(f"output.path {store.root}: Ray reads no files below a folder with ? in its name; rename it")


def check_reachable(store: Store) -> None:
    """Raise ConfigError, within seconds, unless `store` answers."""
    if store.is_local and Path(store.full("")).is_file():
        raise ConfigError(f"output.path {store.root} is a file; give a folder, which need not exist yet")
    try:
        replace(store, deadline_s=REACH_DEADLINE_S).exists("_log")
    except Exception as error:  # noqa: BLE001 - every file system raises its own
        raise ConfigError(
            f"the output {store.root} cannot be reached: {scrub(f'{type(error).__name__}: {error}')}; check the path, "
            "the credentials and fetch.storage_options"
        ) from None
