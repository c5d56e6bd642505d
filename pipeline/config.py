"""The job's config as frozen pydantic models, which refuse unknown keys; `pipeline.config_files` reads them from YAML.

There is no environment-variable layer: what `--print-config` prints is everything that decides a run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pipeline.config_mistakes import nearest
from pipeline.errors import RejectCode

__all__ = [
    "MIB",
    "Config",
    "DecodeConfig",
    "FetchConfig",
    "IdentityMode",
    "ImageConfig",
    "InputsConfig",
    "ManifestConfig",
    "ModelConfig",
    "OutputConfig",
    "ResourcesConfig",
    "RunConfig",
    "Section",
    "VectorSpec",
    "VideoConfig",
]

MIB = 1 << 20


COLUMN_ROLES = (
    "id", "text", "image", "video", "frames", "instruction", "fps", "max_frames",
    "etag", "size", "last_modified", "version", "content_hash",
)  # fmt: skip
"""The manifest's columns, each renameable under `manifest.columns`."""


RESERVED_NAMES = frozenset(
    (
        "id", "modality", "n_tokens", "n_visual_tokens", "n_frames", "truncated", "fingerprint", "content_hash",
        "stage", "code", "detail", "retryable", "attempts", "kept_previous", "run",
    )
)  # fmt: skip
"""Columns of the two tables, and `run`, which DuckDB reads out of folders called `run=…`: no vector has such a name."""


class Section(BaseModel):
    """A part of a config: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ManifestConfig(Section):
    """Where the items are listed."""

    path: str = Field(min_length=1, description="file, folder or glob; local or any fsspec URI")
    format: Literal["auto", "parquet", "csv", "jsonl"] = "auto"
    layout: Literal[
        "auto", "plain", "s3_inventory", "s3_journal", "img2dataset", "binary_file", "hugging_face", "prefix"
    ] = Field(default="auto", description="auto: recognised by its columns and files")
    columns: dict[str, str] = Field(default_factory=dict, description="role: the manifest's own column name")
    carry: tuple[str, ...] = Field(default=(), description="columns copied to the vectors table")

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, columns: dict[str, str]) -> dict[str, str]:
        for role in columns:
            if role not in COLUMN_ROLES:
                raise ValueError(f"unknown column {role!r}{nearest(role, COLUMN_ROLES)}")
        places = {role: columns.get(role, role) for role in COLUMN_ROLES}
        for role, name in columns.items():
            other = next((each for each in columns if each != role and columns[each] == name), None)
            other = other or ("id" if role != "id" and places["id"] == name else None)
            if other:
                raise ValueError(f"{role} and {other} are both read from column {name!r}")
        return columns


class VectorSpec(Section):
    """One vector column: the order is always finite check, cut to `dim`, L2-normalise, quantise."""

    name: str = Field(default="vector", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    dim: Annotated[int, Field(ge=1)] | None = Field(default=None, description="MRL dim; null: the model's own")
    dtype: Literal["float32", "float16", "int8", "binary"] = "int8"

    @model_validator(mode="after")
    def _whole_bytes(self) -> VectorSpec:
        if self.dtype == "binary" and self.dim is not None and self.dim % 8:
            raise ValueError(f"dim {self.dim} of a binary vector is no multiple of 8 (bits are packed)")
        return self


class OutputConfig(Section):
    """Where the index goes, and what a vector is."""

    path: str = Field(min_length=1)
    vectors: tuple[VectorSpec, ...] = (VectorSpec(),)
    target_file_mb: float = Field(default=256, gt=0, description="MiB that merged files aim at")

    @field_validator("vectors")
    @classmethod
    def _distinct_names(cls, vectors: tuple[VectorSpec, ...]) -> tuple[VectorSpec, ...]:
        names = [spec.name for spec in vectors]
        columns = names + [f"{spec.name}_scale" for spec in vectors if spec.dtype == "int8"]
        # SQL does not tell upper case from lower.
        folded = [column.casefold() for column in columns]
        if not names or len(set(folded)) != len(folded):
            raise ValueError(f"vector columns must be named, and differently; got {columns}")
        taken = sorted(RESERVED_NAMES.intersection(folded))
        if taken:
            raise ValueError(
                f"vector columns may not be called {', '.join(taken)}: the tables have columns of that name"
            )
        return vectors


class ModelConfig(Section):
    """The checkpoint and how it is run."""

    path: str = Field(description="a local folder, a Hugging Face id, or modelscope:<id>")
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    attention: Literal["auto", "varlen", "flash_attention_2", "flex", "sdpa", "eager"] = Field(
        default="auto",
        description="auto: the fastest that is there. On a GPU in 16 bits: varlen (in torch), flash_attention_2 (the "
        "package flash-attn), flex (torch, compiled). Anywhere, exact, one call a length: sdpa, eager",
    )
    token_budget: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="tokens of one forward; auto: found on the card at start-up"
    )
    deterministic: bool = Field(default=False, description="one item a forward: the same bits in any company")
    strict_rounding: bool = Field(
        default=False, description="round where the stock modules round: no fused kernels on a GPU, slower"
    )


class ImageConfig(Section):
    """The pixel budget of an image; the defaults are the official embedder's (4 to 1,800 tokens).

    `resize` is also how pictures of frame lists are resized at first.
    """

    min_pixels: int = Field(default=4 * 1024, ge=1024)
    max_pixels: int = Field(default=1800 * 1024, ge=1024)
    resize: Literal["exact", "fast"] = Field(
        default="exact", description="fast: other levels than the reference's, nearly all by one; needs an extra"
    )

    @model_validator(mode="after")
    def _ordered(self) -> ImageConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is more than max_pixels {self.max_pixels}")
        return self


class VideoConfig(Section):
    """How a video is sampled; the defaults are the official embedder's."""

    fps: float = Field(default=1.0, gt=0)
    max_frames: int = Field(default=64, ge=2)
    total_pixels: int = Field(default=10 * 768 * 1024, ge=128 * 1024)


IdentityMode = Literal["auto", "list", "head", "content", "trust"]
"""How planning tells one state of a file from another."""


class InputsConfig(Section):
    """How an item becomes a prompt. All that decides a vector (so not `dedupe` or `identity`) is fingerprinted."""

    instruction: str | None = None
    max_length: int = Field(default=8192, ge=64, description="tokens")
    over_length: Literal["truncate", "reject", "reference"] = "truncate"
    exif: bool = Field(default=True, description="apply EXIF orientation (the reference ignores it)")
    control_tokens: Literal["neutralise", "reference"] = "neutralise"
    dedupe: bool = Field(default=True, description="embed equal content once, and write its vector for each item")
    identity: IdentityMode = Field(
        default="auto",
        description="how a change is seen. auto: the manifest's columns, else list or head, whichever asks less; list, "
        "head: the store's listing or each object; content: hash the bytes; trust: an unchanged URI is unchanged",
    )
    image: ImageConfig = ImageConfig()
    video: VideoConfig = VideoConfig()


class FetchConfig(Section):
    """What may be read, and how patiently."""

    schemes: tuple[str, ...] = ("file", "s3")
    hosts: tuple[str, ...] = Field(
        default=(), description="hosts that http(s) URLs may name: example.com, *.example.com, or * for any public one"
    )
    private_hosts: tuple[str, ...] = Field(
        default=(), description="hosts (names, or networks as CIDR) of one's own network that http(s) URLs may mean"
    )
    buckets: tuple[str, ...] | None = Field(default=None, description="buckets that URIs may name; null: any")
    local_roots: tuple[str, ...] | None = Field(
        default=None, description="folders local URIs may lie in; null: the manifest's own folder"
    )
    storage_options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, repr=False, description="fsspec options by scheme, e.g. {s3: {endpoint_url: …}}"
    )
    max_bytes: int = Field(default=1024 * MIB, ge=1, description="of one file")
    timeout_s: float = Field(default=120, gt=0, description="for one file, all its retries included")
    retries: int = Field(default=5, ge=0, description="of one file, after errors that pass; throttling does not count")
    throttle_patience_s: float = Field(
        default=600, ge=0, description="how long a store that throttles everything (429, 503) is waited for"
    )
    concurrency: int = Field(
        default=32,
        ge=1,
        description="reads under way at once in one worker; at 30 ms a GET 32 are 1,000 files/s, more than it decodes",
    )


class DecodeConfig(Section):
    """What one item's media may cost to decode. No limit alters a vector, so none of them is fingerprinted.

    An item that passes one of them is a reject with a code of its own; to try it again under higher limits, name that
    code in `run.retry`.
    """

    timeout_s: float = Field(
        default=120,
        gt=0,
        description="for one item, by the wall clock; then its process is killed. What takes long and is sound: 64 "
        "places of a long video in 4K, each decoded from its last keyframe",
    )
    memory_mb: int = Field(
        default=4096,
        ge=512,
        description="MiB that decoding may take beyond what the process starts with: a file of fetch.max_bytes twice "
        "on its way in, and the copies of the largest image",
    )
    max_image_pixels: int = Field(
        default=1 << 26,
        ge=1,
        description="67 megapixels, 192 MiB in RGB. Pillow, and so the reference, only stops at 178,956,970",
    )
    max_frame_pixels: int = Field(default=1 << 26, ge=1, description="of one video frame; 8K is half of it")
    max_packets: int = Field(
        default=1 << 21, ge=1, description="of one video: 19 hours at 30 frames a second, and half a GiB to list them"
    )
    max_duration_s: float = Field(
        default=2 * 86_400, gt=0, description="from a video's first frame to its last; beyond two days clocks lie"
    )
    max_metadata_bytes: int = Field(
        default=4 * MIB,
        ge=1024,
        description="of an image's texts, profiles and tags, unpacked: of each compressed one, and of all tags",
    )


class ResourcesConfig(Section):
    """Sizes of the actor pools."""

    address: str = Field(default="auto", description="auto: a cluster if there is one; local; or an address")
    encoders: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    gpus_per_encoder: float = Field(default=1, ge=0)
    cpus_per_encoder: float = Field(default=1, gt=0)
    preparers: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    cpus_per_preparer: float = Field(default=1, gt=0)


class RunConfig(Section):
    """How a run commits, stops and judges itself."""

    commit_interval_s: float = Field(default=30, gt=0)
    max_reject_fraction: float = Field(default=0.05, ge=0, le=1)
    max_items: int | None = Field(default=None, ge=1)
    max_runtime_s: float | None = Field(default=None, gt=0)
    max_delete_fraction: float = Field(default=0.2, ge=0, le=1)
    keep_snapshots: int = Field(default=7, ge=1, description="snapshots that gc leaves readable, the newest included")
    on_recompute: Literal["refuse", "all", "new_index"] = Field(
        default="refuse",
        description="where the model or what else decides vectors differs from the index's. refuse: exit 4; all: embed "
        "everything into the next snapshot; new_index: leave it, and keep an index of its own beside it",
    )
    max_attempts: int = Field(default=3, ge=1, description="runs that try a retryable reject")
    retry: tuple[str, ...] = Field(
        default=(), description="reject codes (a list, or CODE,CODE) that are tried again whatever their attempts"
    )
    block_items: int = Field(default=256, ge=1, description="items of one preparation task")
    window_mb: float = Field(default=64, gt=0, description="MiB of pixels that close a window")
    window_tokens: int = Field(default=131_072, ge=1, description="tokens that close a window")

    @field_validator("retry", mode="before")
    @classmethod
    def _codes(cls, codes: object) -> object:
        if codes is None:  # as `--set run.retry=` has it, which takes back what the file says
            return ()
        listed = [code.strip() for code in codes.split(",") if code.strip()] if isinstance(codes, str) else codes
        for code in listed if isinstance(listed, list | tuple) else ():
            if code not in list(RejectCode):
                raise ValueError(f"unknown reject code {code!r}{nearest(str(code).upper(), tuple(RejectCode))}")
        return listed


class Config(Section):
    """A whole job."""

    manifest: ManifestConfig
    output: OutputConfig
    model: ModelConfig
    inputs: InputsConfig = InputsConfig()
    fetch: FetchConfig = FetchConfig()
    decode: DecodeConfig = DecodeConfig()
    resources: ResourcesConfig = ResourcesConfig()
    run: RunConfig = RunConfig()
