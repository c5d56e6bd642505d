"""Whether an index holds rows of a run's kind, and how the run may go on with one that does not.

In: the run and the state of its output. Out: a `Continuation`. Refused with OwnershipError (exit 4), naming what
differs: another compute fingerprint, vector specs that the stored columns cannot give, unless `run.on_recompute` says
what to do about it; and always another id type or a table of scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.config import Config
from pipeline.errors import ConfigError, OwnershipError
from pipeline.index.commits import Commit
from pipeline.index.derive import Derivation, derivation_of, underivable
from pipeline.index.files import made_by
from pipeline.index.state import IndexState
from pipeline.storage import Store

__all__ = ["SAME_KIND", "Continuation", "OfKind", "OfVectors", "beside", "check_same_kind", "continuation"]

_NAMES = {"specs": "vectors", "id_type": "ids of type", "table": "a table of"}
_ADVICE = "give this job another output.path, or the config that made this index"
_SWITCHES = (
    "run.on_recompute=all embeds everything again into the next snapshot, run.on_recompute=new_index keeps an index of "
    "its own beside this one; or "
)
_HEX_DIGITS = 12
"""Of the compute fingerprint in a path: 48 bits tell apart all configs that anyone tries on one lake."""

_UNRECORDED = object()


class OfKind(Protocol):
    """A run, by what tells whether an output is of its kind."""

    @property
    def store(self) -> Store:
        """The output."""

    @property
    def compute_fingerprint(self) -> str:
        """What decides its rows, but for the items."""

    @property
    def compute_facts(self) -> Mapping[str, Any]:
        """What the compute fingerprint is of (`fingerprint.compute_facts`)."""

    @property
    def kind(self) -> dict[str, Any]:
        """What commits record of their rows besides."""


class OfVectors(OfKind, Protocol):
    """A run that writes vectors."""

    @property
    def config(self) -> Config:
        """The job's config."""

    @property
    def hidden_dim(self) -> int:
        """Length of a vector before any cut."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """How a run goes on with its index; at most one of the three is set. `why` says what differs, for people.

    `recompute`: no live row counts, everything is embedded again. `derivation`: live rows get other vector columns.
    `beside`: the index stays as it is, the run's own is at `beside(…)`.
    """

    recompute: bool = False
    derivation: Derivation | None = None
    beside: bool = False
    why: str = ""


SAME_KIND = Continuation()
"""There is no index yet, or one of the run's own kind: it goes on as ever."""


def continuation(run: OfVectors, state: IndexState) -> Continuation:
    """How `run` goes on with the index in `state`. Raises OwnershipError, see the module."""
    snapshot = state.snapshot
    if snapshot is None:
        return SAME_KIND
    if "specs" not in snapshot.info:
        raise _refused(run, _other_kind(run, snapshot) or "it holds no vectors", _ADVICE)
    if snapshot.fingerprint != run.compute_fingerprint:
        return _as_told(run, snapshot, _other_compute(run, snapshot))
    if snapshot.info["id_type"] != run.kind["id_type"]:
        raise _refused(run, _other_kind(run, snapshot), _ADVICE)
    return _with_specs(run, snapshot)


def check_same_kind(run: OfKind, state: IndexState) -> None:
    """Raise OwnershipError, naming what differs, if the output in `state` holds rows of another kind than `run`'s."""
    if state.snapshot is None:
        return
    if state.snapshot.fingerprint != run.compute_fingerprint:
        raise _refused(run, _other_compute(run, state.snapshot), _ADVICE)
    if differs := _other_kind(run, state.snapshot):
        raise _refused(run, differs, _ADVICE)


def beside(output: str, compute_fingerprint: str) -> str:
    """Where the index of `compute_fingerprint` lies, the same place every night, if `output` holds another kind.

    Raises ConfigError where that is a whole bucket: beside it are other buckets.
    """
    scheme, _, place = output.rpartition("://")
    if scheme and "/" not in place.rstrip("/"):
        raise ConfigError(
            f"output.path {output} is a whole bucket, and run.on_recompute is new_index: the new index would go beside "
            "it, into a bucket of another name; give an output.path that is a folder"
        )
    return f"{output.rstrip('/')}-{compute_fingerprint[:_HEX_DIGITS]}"


def _with_specs(run: OfVectors, snapshot: Commit) -> Continuation:
    stored, wanted = snapshot.info["specs"], run.config.output.vectors
    if stored == run.kind["specs"]:
        return SAME_KIND
    differs = _other_kind(run, snapshot)
    derivation = derivation_of(stored, wanted, run.hidden_dim)
    if derivation:
        return Continuation(derivation=derivation, why=differs)
    missing = ", ".join(
        f"{spec.name} ({spec.dtype}, dim {spec.dim})" for spec in underivable(stored, wanted, run.hidden_dim)
    )
    return _as_told(run, snapshot, f"{differs}, of which {missing} cannot be made from what is stored")


def _as_told(run: OfVectors, snapshot: Commit, why: str) -> Continuation:
    told = run.config.run.on_recompute
    if told == "new_index":
        return Continuation(beside=True, why=why)
    if told == "refuse":
        raise _refused(run, why, _SWITCHES + _ADVICE)
    if snapshot.info["id_type"] != run.kind["id_type"]:
        raise _refused(run, f"{why}; {_other_kind(run, snapshot)}", _ADVICE)
    return Continuation(recompute=True, why=why)


def _other_compute(run: OfKind, snapshot: Commit) -> str:
    here, there = run.compute_facts, snapshot.info.get("compute") or {}
    facts = [
        f"{key} {_shown(there, key)} is {_shown(here, key)} in this config"
        for key in sorted(here.keys() | there.keys())
        if there and here.get(key, _UNRECORDED) != there.get(key, _UNRECORDED)
    ]
    general = (
        "the model, the instruction, sampling or a pixel budget differs: "
        f"reports/{made_by(snapshot)}/summary.json has that run's config"
    )
    return (
        f"its compute fingerprint is {snapshot.fingerprint} (run {made_by(snapshot)}), this config's is "
        f"{run.compute_fingerprint}; {'; '.join(facts) or general}"
    )


def _shown(facts: Mapping[str, Any], key: str) -> str:
    return repr(facts[key]) if key in facts else "(not recorded)"


def _other_kind(run: OfKind, snapshot: Commit) -> str:
    return "; ".join(
        f"it holds {_NAMES[key]} {snapshot.info.get(key)}, this config {wanted}"
        for key, wanted in run.kind.items()
        if snapshot.info.get(key) != wanted
    )


def _refused(run: OfKind, why: str, advice: str) -> OwnershipError:
    return OwnershipError(f"{run.store.root} holds another kind of index: {why}; {advice}")
