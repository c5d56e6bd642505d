"""What is wrong on this machine, and how to mend it: versions, GPU, model, tokenizer, manifest, output, credentials.

In: a config, or None for what does not depend on one. Out: findings, in the order in which to mend them. Nothing is
refused, and nothing is left behind: the output is probed with an object that is deleted again.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pipeline.checkpoint import Checkpoint, resolve_checkpoint
from pipeline.config import Config, DecodeConfig, InputsConfig
from pipeline.decode_child import equip_drafter
from pipeline.decode_pool import DecodePool
from pipeline.errors import ConfigError, LakevecError
from pipeline.manifest.manifest import open_manifest
from pipeline.quantize import check_specs
from pipeline.storage import Store, open_store
from pipeline.tokenizer import PromptTokenizer
from pipeline.weights import weight_count

__all__ = ["Finding", "diagnose"]

GIB = 1 << 30

WORKING_BYTES = 2 * GIB
"""GPU memory wanted beside the weights: libraries' own and the activations of a small token budget."""

CHILD_START_S = 60.0
"""On an idle machine a child is there within two seconds; on one that swaps it may take this long."""

_VALUE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

Check = Callable[[], "list[Finding]"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `ok`: True good, False to be mended, None merely worth knowing."""

    name: str
    ok: bool | None
    detail: str
    advice: str = ""


def diagnose(config: Config | None) -> list[Finding]:
    """Look at everything. Never raises for what it finds; a check that fails is a finding itself."""
    checks: list[tuple[str, Check]] = [
        ("python", _python),
        ("libraries", _libraries),
        ("model classes", _model_classes),
        ("gpu", _gpus),
        ("heic images", _heif),
        ("decoding", _decoding),
    ]
    if config is not None:
        checks += [
            ("model", lambda: _model(config)),
            ("s3 credentials", lambda: _credentials(config)),
            ("manifest", lambda: _manifest(config)),
            ("output", lambda: _output(config)),
        ]
    return [finding for name, check in checks for finding in _guarded(name, check)]


def _guarded(name: str, check: Check) -> list[Finding]:
    try:
        return check()
    except LakevecError as error:
        return [Finding(name, False, str(error))]
    except Exception as error:  # noqa: BLE001 - a doctor reports whatever is broken, and goes on
        return [Finding(name, False, f"{type(error).__name__}: {error}")]


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    return [Finding("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")]


def _libraries() -> list[Finding]:
    try:
        lines = importlib.metadata.requires("lakevec") or []
    except importlib.metadata.PackageNotFoundError:
        detail = "lakevec is not installed, so its requirements are unknown here"
        return [Finding("libraries", None, detail, "pip install the project rather than only its files")]
    needed = [requirement for requirement in map(Requirement, lines) if requirement.marker is None]
    return [_library(requirement) for requirement in needed]


def _library(requirement: Requirement) -> Finding:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(requirement.name, False, "not installed", f"pip install '{wanted}'")
    good = requirement.specifier.contains(version, prereleases=True)
    return Finding(requirement.name, good, version, f"pip install '{wanted}'")


def _model_classes() -> list[Finding]:
    # An incompatible torchvision beside torch breaks every Qwen3-VL class of transformers at import.
    advice = "reinstall torch, and torchvision of the same release or none at all"
    try:
        import pipeline.models.qwen3_vl  # noqa: F401 - importing it is the check
    except (ImportError, RuntimeError, OSError) as error:
        return [Finding("model classes", False, f"transformers' Qwen3-VL cannot be imported: {error}", advice)]
    return [Finding("model classes", True, "transformers' Qwen3-VL can be imported")]


def _gpus() -> list[Finding]:
    from pipeline.models.devices import gpus, torch_build

    found = gpus()
    if not found:
        advice = "on a GPU machine, check the driver with nvidia-smi and that torch is a CUDA build"
        return [Finding("gpu", None, f"torch ({torch_build()}) sees none; encoding runs on the CPU", advice)]
    return [
        Finding(
            f"gpu {index}",
            gpu.bfloat16,
            f"{gpu.name}, {gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free, {torch_build()}",
            "this GPU has no bfloat16: set model.dtype: float32",
        )
        for index, gpu in enumerate(found)
    ]


def _heif() -> list[Finding]:
    if importlib.util.find_spec("pillow_heif") is not None:
        return [Finding("heic images", True, "pillow-heif is installed")]
    return [Finding("heic images", None, "rejected as UNSUPPORTED_FORMAT", "pip install 'lakevec[heif]'")]


def _decoding() -> list[Finding]:
    """Whether a decoding child starts here, and who keeps it off the network."""
    inputs, limits = InputsConfig(), DecodeConfig()
    with DecodePool(partial(equip_drafter, inputs, limits), limits) as pool:
        facts = pool.check().result(CHILD_START_S)
    if facts.has_no_network:
        return [Finding("decoding", True, "in children without a network: the kernel gave them an empty one")]
    detail = "in children whose network is closed by FFmpeg's whitelists and an audit hook: no namespace is to be had"
    return [Finding("decoding", None, detail, "allow unprivileged user namespaces, or give the job CAP_SYS_ADMIN")]


def _model(config: Config) -> list[Finding]:
    checkpoint = resolve_checkpoint(config.model)
    findings = [Finding("model", True, f"{checkpoint.folder} ({checkpoint.hidden_dim} dimensions)")]
    check_specs(config.output.vectors, checkpoint.hidden_dim)
    findings += _guarded("tokenizer", lambda: _tokenizer(checkpoint))
    return findings + _guarded("gpu memory", lambda: _memory(checkpoint, config))


def _tokenizer(checkpoint: Checkpoint) -> list[Finding]:
    PromptTokenizer(checkpoint.folder)
    return [Finding("tokenizer", True, "control tokens are the model's, and prompts end in <|endoftext|>")]


def _memory(checkpoint: Checkpoint, config: Config) -> list[Finding]:
    from pipeline.models.devices import gpus

    weights = weight_count(checkpoint.folder) * _VALUE_BYTES[config.model.dtype]
    detail = f"{config.model.dtype} weights take {weights / GIB:.2f} GiB"
    found = gpus()
    if not found:
        return [Finding("gpu memory", None, detail)]
    most = max(gpu.free_bytes for gpu in found)
    advice = "free the GPU, take a larger one or the smaller model, or set model.dtype: bfloat16"
    return [Finding("gpu memory", weights + WORKING_BYTES <= most, f"{detail} of {most / GIB:.1f} GiB free", advice)]


def _manifest(config: Config) -> list[Finding]:
    manifest = open_manifest(
        config.manifest, config.fetch.storage_options, vectors=config.output.vectors, output=config.output.path
    )
    return [Finding("manifest", True, f"{len(manifest.files)} file(s), ids are {manifest.id_type}")]


def _output(config: Config) -> list[Finding]:
    store = open_store(config.output.path, config.fetch.storage_options)
    name = f"_doctor-{uuid.uuid4().hex}"
    base = Path(store.base)
    new_folders = [folder for folder in (base, *base.parents) if not folder.exists()] if store.is_local else []
    try:
        problem = _probe(store, name)
    except OSError as error:
        problem = f"cannot be written: {error}"
    finally:
        store.delete(name)
        for folder in new_folders:
            with suppress(OSError):
                folder.rmdir()
    if problem:
        advice = "check the path, its permissions and the free space; lakevec needs a store that creates exclusively"
        return [Finding("output", False, f"{config.output.path}: {problem}", advice)]
    return [Finding("output", True, f"{config.output.path} can be written and honours put-if-absent")]


def _probe(store: Store, name: str) -> str:
    first, second = f"{name}-1".encode(), f"{name}-2".encode()
    if not store.put_if_absent(name, first):
        return "a new object could not be created"
    if store.put_if_absent(name, second) or store.read(name) != first:
        return "put-if-absent overwrites: two runs could both believe to own this output"
    return ""


def _credentials(config: Config) -> list[Finding]:
    if not any(path.startswith("s3://") for path in (config.manifest.path, config.output.path)):
        return []
    options = config.fetch.storage_options.get("s3", {})
    return [_s3(options)]


def _s3(options: Mapping[str, Any]) -> Finding:
    if options.get("anon"):
        return Finding("s3 credentials", True, "none: fetch.storage_options says anonymous")
    if options.get("key") or options.get("profile"):
        return Finding("s3 credentials", True, "from fetch.storage_options")
    from botocore.session import Session  # type: ignore[import-untyped]

    credentials = Session().get_credentials()
    if credentials is None:
        raise ConfigError(
            "no S3 credentials: neither the environment, ~/.aws, nor the machine's role has any; "
            "run `aws configure`, give the machine a role, or set fetch.storage_options.s3"
        )
    return Finding("s3 credentials", True, f"from {credentials.method}")
