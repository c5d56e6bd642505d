"""A rerank run: everything that is settled before the first pair is touched, checked without loading the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.candidates.candidates import Candidates, open_candidates
from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import ManifestConfig, ModelConfig
from pipeline.errors import ConfigError
from pipeline.fingerprint import compute_facts, compute_fingerprint
from pipeline.index.commits import Table
from pipeline.manifest.manifest import Manifest, open_manifest
from pipeline.policy import FetchPolicy
from pipeline.rerank.config import RerankConfig
from pipeline.rerank.plan import Side
from pipeline.rerank.template import RERANK_TEMPLATE_VERSION, resolve_rerank_instruction
from pipeline.run import check_lasting, check_reachable, check_read_by_ray, settled_model
from pipeline.storage import Store, open_store
from pipeline.tokenizer import PromptTokenizer

__all__ = ["RerankRun", "open_rerank_run"]


@dataclass(frozen=True, slots=True)
class RerankRun:
    """One process's attempt at a job. `compute_fingerprint` covers everything but the items."""

    run_id: str
    config: RerankConfig
    store: Store
    candidates: Candidates
    queries: Side
    documents: Side
    checkpoint: Checkpoint
    compute_fingerprint: str

    @property
    def kind(self) -> dict[str, Any]:
        """What commits record of their rows besides the fingerprint: only equal ones may share an output."""
        return {"table": str(Table.SCORES)}

    @property
    def compute_facts(self) -> dict[str, Any]:
        """What `compute_fingerprint` is of, by config key."""
        return compute_facts(
            model_identity=self.checkpoint.identity,
            model=self.config.model,
            template_version=RERANK_TEMPLATE_VERSION,
            inputs=self.config.inputs,
        )

    @property
    def info(self) -> dict[str, Any]:
        """What commits record of the run: its kind, and the facts behind its compute fingerprint."""
        return self.kind | {"compute": self.compute_facts}

    @property
    def policy(self) -> FetchPolicy:
        """What this run may read, and how: without `fetch.local_roots`, below the folders of both manifests."""
        policies = [FetchPolicy.of(self.config.fetch, folder) for folder in self._folders]
        return replace(policies[0], roots=tuple(dict.fromkeys(root for each in policies for root in each.roots)))

    @property
    def model(self) -> ModelConfig:
        """`config.model` as workers must resolve it: the same folder from anywhere, the same commit at any time."""
        return settled_model(self.config.model, self.checkpoint)

    @property
    def local_inputs(self) -> list[str]:
        """What every node must see, if it is local."""
        found = [self.model.path] if self.checkpoint.identity.startswith("local:") else []
        policy = self.policy
        return found + (list(policy.roots) if "file" in policy.schemes else [])

    @property
    def _folders(self) -> tuple[str, str]:
        return self.queries.manifest.folder, self.documents.manifest.folder


def open_rerank_run(config: RerankConfig, run_id: str, scratch: Path, *, uploaded: bool) -> RerankRun:
    """Open output, lists, manifests, tokenizer and model folder. Texts that the lists bring along go to `scratch`.

    `uploaded`: the current directory was uploaded with the job and vanishes with it. Raises ConfigError or
    ManifestError, in seconds, for anything that would stop the job later.
    """
    check_lasting(config.output.path, uploaded=uploaded)
    store = open_store(config.output.path, config.fetch.storage_options)
    check_read_by_ray(store)
    check_reachable(store)
    candidates = open_candidates(config.candidates, config.fetch.storage_options, scratch)
    queries = _manifest(config, "queries", config.queries, candidates.queries_manifest)
    documents = _manifest(config, "documents", config.documents, candidates.documents_manifest)
    checkpoint = resolve_checkpoint(config.model, weights=False)
    PromptTokenizer(checkpoint.folder, "reranker")
    fingerprint = compute_fingerprint(
        model_identity=checkpoint.identity,
        model=config.model,
        template_version=RERANK_TEMPLATE_VERSION,
        inputs=config.inputs,
    )

    def instruction(row: str | None) -> str:
        return resolve_rerank_instruction(row, config.inputs.instruction)

    return RerankRun(
        run_id,
        config,
        store,
        candidates,
        Side(queries, instruction),
        # An instruction of a document says nothing: the query's holds.
        Side(documents, lambda row: ""),
        checkpoint,
        fingerprint,
    )


def _manifest(config: RerankConfig, name: str, given: ManifestConfig | None, brought: str | None) -> Manifest:
    if given is None and brought is None:
        raise ConfigError(
            f"{name} is missing: these candidate lists bring no texts of their own; give {name}: {{path: …}}, a "
            "manifest with the ids that the lists name"
        )
    settled = given or ManifestConfig(path=str(brought))
    return open_manifest(settled, config.fetch.storage_options, output=config.output.path)
