"""Everything that can go wrong, closed.

LakevecError             what a user sees: says what happened, where, and what to do next
├── ConfigError          exit 2: the config, the model folder or the machine cannot run this job
├── ManifestError        exit 2: the manifest cannot be read as one
│   └── DuplicateIdsError  some of its ids are there twice
├── DeviceLostError      exit 1: the GPU failed in a way that only a new process gets over
├── OwnershipError       exit 4: the output belongs to a live run or to another kind of index
├── IncompleteError      exit 5: stopped early; run again to continue
└── IndexCorruptError    exit 1: the index breaks its own invariants

RejectError              one item cannot be embedded; carries a `RejectCode`; never leaves its stage
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import NamedTuple

from pipeline.redaction import redact

__all__ = [
    "DETAIL_MAX_CHARS",
    "NON_FINITE_DETAIL",
    "NON_FINITE_SCORE",
    "PLACE_CODES",
    "ConfigError",
    "DeviceLostError",
    "DuplicateIdsError",
    "ExitCode",
    "IncompleteError",
    "IndexCorruptError",
    "LakevecError",
    "ManifestError",
    "OwnershipError",
    "RejectCode",
    "RejectError",
    "RejectMeaning",
    "Stage",
    "scrub",
]

DETAIL_MAX_CHARS = 300
"""Long enough for a sentence and a name, short enough that a million rejects stay a small table."""


NON_FINITE_DETAIL = "the encoder's output has NaN, infinity or zero norm"
NON_FINITE_SCORE = "the reranker's output is NaN or infinite"
"""What a `NON_FINITE` reject says, of a vector and of a score, wherever it is found."""


class ExitCode(IntEnum):
    """A job's exit status, repeated in `summary.json`."""

    COMPLETE = 0
    FAILED = 1  # a defect of ours or of the machine: the log has the traceback
    BAD_INPUT = 2
    TOO_MANY_REJECTS = 3
    NOT_OURS = 4
    INCOMPLETE = 5
    INTERRUPTED = 130


class LakevecError(Exception):
    """An error that ends a command with a message instead of a traceback. The message is redacted as it is made."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class ConfigError(LakevecError):
    """The config, the model folder or the machine cannot run this job."""

    exit_code = ExitCode.BAD_INPUT


class ManifestError(LakevecError):
    """The manifest cannot be read as one; the message names the column, what was expected and found."""

    exit_code = ExitCode.BAD_INPUT


class DuplicateIdsError(ManifestError):
    """`total` ids are there more than once; `rows` has the number of rows of some of them, by id."""

    def __init__(self, total: int, rows: Mapping[str, int]) -> None:
        named = ", ".join(f"{each!r} ({count} rows)" for each, count in rows.items())
        super().__init__(f"column 'id' has {total} duplicate ids; expected each id once; found {named}")
        self.total = total
        self.rows = rows


class DeviceLostError(LakevecError):
    """The GPU failed in a way that sticks to this process: it can compute nothing more, a new process can."""


class OwnershipError(LakevecError):
    """The output belongs to another live run or to another kind of index."""

    exit_code = ExitCode.NOT_OURS


class IncompleteError(LakevecError):
    """The run stopped before the end; what is committed stays, and running again continues."""

    exit_code = ExitCode.INCOMPLETE


class IndexCorruptError(LakevecError):
    """The index breaks its own invariants; `lakevec verify` says where."""


class Stage(StrEnum):
    """Where an item was rejected."""

    FETCH = "fetch"
    DECODE = "decode"
    PREPARE = "prepare"
    ENCODE = "encode"
    RUN = "run"


class RejectMeaning(NamedTuple):
    """What a code says: its stage, whether the next run tries again, what happened, what to do."""

    stage: Stage
    retryable: bool
    meaning: str
    action: str


class RejectCode(StrEnum):
    """Why an item has no vector. Closed: a new reason is a new member with a row in `_MEANINGS`."""

    UNKNOWN_ID = "UNKNOWN_ID"
    NO_MEDIUM = "NO_MEDIUM"
    URI_NOT_ALLOWED = "URI_NOT_ALLOWED"
    NOT_FOUND = "NOT_FOUND"
    ACCESS_DENIED = "ACCESS_DENIED"
    FETCH_FAILED = "FETCH_FAILED"
    FETCH_TIMEOUT = "FETCH_TIMEOUT"
    SOURCE_CHANGED = "SOURCE_CHANGED"
    MEDIA_TOO_LARGE = "MEDIA_TOO_LARGE"
    EMPTY_MEDIA = "EMPTY_MEDIA"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    IMAGE_UNREADABLE = "IMAGE_UNREADABLE"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    ASPECT_RATIO = "ASPECT_RATIO"
    VIDEO_UNREADABLE = "VIDEO_UNREADABLE"
    NO_VIDEO_STREAM = "NO_VIDEO_STREAM"
    TOO_FEW_FRAMES = "TOO_FEW_FRAMES"
    FRAMES_DIFFER = "FRAMES_DIFFER"
    VIDEO_TOO_LONG = "VIDEO_TOO_LONG"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    DECODER_CRASHED = "DECODER_CRASHED"
    DECODE_MEMORY = "DECODE_MEMORY"
    OVER_LENGTH = "OVER_LENGTH"
    PREPARE_FAILED = "PREPARE_FAILED"
    CONTROL_TOKEN = "CONTROL_TOKEN"  # noqa: S105 - no password
    NON_FINITE = "NON_FINITE"
    GPU_OOM = "GPU_OOM"
    ENCODE_FAILED = "ENCODE_FAILED"
    DEVICE_ERROR = "DEVICE_ERROR"
    WORKER_CRASHED = "WORKER_CRASHED"

    @property
    def meaning(self) -> RejectMeaning:
        """This code's stage, retry rule, meaning and advice."""
        return _MEANINGS[self]


PLACE_CODES = frozenset(
    {
        RejectCode.URI_NOT_ALLOWED, RejectCode.NOT_FOUND, RejectCode.ACCESS_DENIED, RejectCode.FETCH_FAILED,
        RejectCode.FETCH_TIMEOUT, RejectCode.SOURCE_CHANGED,
    }
)  # fmt: skip
"""Codes about the place where an item's bytes should be: at another item's place the same content may be read."""


_MEANINGS: dict[RejectCode, RejectMeaning] = {
    RejectCode.UNKNOWN_ID: RejectMeaning(
        Stage.RUN, False, "a candidate list names a query or a document that is in no manifest",
        "add it to the manifest, or make the lists from the manifest as it is",
    ),
    RejectCode.NO_MEDIUM: RejectMeaning(
        Stage.FETCH, False, "a list of media holds null, or a URI is empty",
        "give the URI or the bytes, or take the place out of the manifest's list",
    ),
    RejectCode.URI_NOT_ALLOWED: RejectMeaning(
        Stage.FETCH, False, "the URI's scheme, host, bucket or folder is not allowed",
        "allow it under fetch: schemes, hosts, private_hosts, buckets, local_roots",
    ),
    RejectCode.NOT_FOUND: RejectMeaning(
        Stage.FETCH, False, "no such file or object", "mend the manifest or restore the file",
    ),
    RejectCode.ACCESS_DENIED: RejectMeaning(
        Stage.FETCH, True, "the store refused the read",
        "grant the job's role read access, or check fetch.storage_options",
    ),
    RejectCode.FETCH_FAILED: RejectMeaning(
        Stage.FETCH, True, "the store kept failing after every retry, or throttled for too long",
        "run again; look at the store's health, or raise fetch.throttle_patience_s",
    ),
    RejectCode.FETCH_TIMEOUT: RejectMeaning(
        Stage.FETCH, True, "the read did not end within fetch.timeout_s", "run again, or raise fetch.timeout_s",
    ),
    RejectCode.SOURCE_CHANGED: RejectMeaning(
        Stage.FETCH, True, "the file is not the planned one: it changed since, or the manifest tells of another",
        "run again; if it stays, mend the manifest's identity columns, or set inputs.identity: trust",
    ),
    RejectCode.MEDIA_TOO_LARGE: RejectMeaning(
        Stage.FETCH, False, "the file is larger than fetch.max_bytes", "raise fetch.max_bytes or leave it out",
    ),
    RejectCode.EMPTY_MEDIA: RejectMeaning(
        Stage.FETCH, False, "the file has no bytes", "restore the file",
    ),
    RejectCode.UNSUPPORTED_FORMAT: RejectMeaning(
        Stage.DECODE, False, "the bytes are no image or video format that lakevec reads",
        "convert the file; the README lists the formats",
    ),
    RejectCode.IMAGE_UNREADABLE: RejectMeaning(
        Stage.DECODE, False, "the image is damaged or truncated", "restore the file",
    ),
    RejectCode.IMAGE_TOO_LARGE: RejectMeaning(
        Stage.DECODE, False, "an image, or a video's frame, has more pixels, scans or metadata than decode allows",
        "downscale the file, or raise the max_… of decode that the detail names, and set run.retry",
    ),
    RejectCode.ASPECT_RATIO: RejectMeaning(
        Stage.DECODE, False, "the longer side is more than 200 times the shorter", "crop the file",
    ),
    RejectCode.VIDEO_UNREADABLE: RejectMeaning(
        Stage.DECODE, False, "the video is damaged or truncated", "restore the file",
    ),
    RejectCode.NO_VIDEO_STREAM: RejectMeaning(
        Stage.DECODE, False, "the container holds no video stream", "check that the file is a video",
    ),
    RejectCode.TOO_FEW_FRAMES: RejectMeaning(
        Stage.DECODE, False, "fewer than two frames could be decoded", "give a still picture as an image",
    ),
    RejectCode.FRAMES_DIFFER: RejectMeaning(
        Stage.DECODE, False, "the frames of one list resize to different sizes", "give frames of one size",
    ),
    RejectCode.VIDEO_TOO_LONG: RejectMeaning(
        Stage.DECODE, False, "the video has more packets than decode.max_packets, or lasts over decode.max_duration_s",
        "cut the video, or raise the limit and set run.retry",
    ),
    RejectCode.DECODE_TIMEOUT: RejectMeaning(
        Stage.DECODE, True, "decoding did not end within decode.timeout_s, alone on a second try either",
        "look at the file; raise decode.timeout_s for long videos; run again",
    ),
    RejectCode.DECODER_CRASHED: RejectMeaning(
        Stage.DECODE, True, "the decoding process died of this item, alone on a second try too",
        "report the file; leave it out",
    ),
    RejectCode.DECODE_MEMORY: RejectMeaning(
        Stage.DECODE, False, "decoding needs more memory than decode.memory_mb",
        "downscale the file, or raise decode.memory_mb and set run.retry",
    ),
    RejectCode.OVER_LENGTH: RejectMeaning(
        Stage.PREPARE, False, "the item's visual tokens alone pass inputs.max_length",
        "raise inputs.max_length, lower inputs.image.max_pixels, or give fewer images",
    ),
    RejectCode.PREPARE_FAILED: RejectMeaning(
        Stage.PREPARE, True, "preparation failed in a way that lakevec does not know",
        "report the file with the detail; run again",
    ),
    RejectCode.CONTROL_TOKEN: RejectMeaning(
        Stage.PREPARE, False, "the text holds a literal token that stands for an image or a video",
        "set inputs.control_tokens: neutralise, or take the token out of the text",
    ),
    RejectCode.NON_FINITE: RejectMeaning(
        Stage.ENCODE, False, "the model returned a vector with NaN, infinity or zero norm",
        "check the weights; try model.dtype: float32",
    ),
    RejectCode.GPU_OOM: RejectMeaning(
        Stage.ENCODE, True, "the item alone needs more memory than the device has left",
        "use a larger GPU, or lower inputs.max_length or inputs.image.max_pixels; run again",
    ),
    RejectCode.ENCODE_FAILED: RejectMeaning(
        Stage.ENCODE, True, "the model failed on the item, alone as well, in a way that lakevec does not know",
        "report the item with the detail; run again",
    ),
    RejectCode.DEVICE_ERROR: RejectMeaning(
        Stage.ENCODE, True, "the GPU failed on the item, alone as well, in a way that ends the process",
        "look at the GPU's health (dmesg, nvidia-smi -q); if other items do well on it, report the item; run again",
    ),
    RejectCode.WORKER_CRASHED: RejectMeaning(
        Stage.RUN, True, "the worker died each time it held this item, alone as well",
        "look at the worker's log; report the file",
    ),
}  # fmt: skip


class RejectError(Exception):
    """One item cannot be embedded. `detail` is scrubbed of object addresses and cut to 300 characters."""

    def __init__(self, code: RejectCode, detail: str = "") -> None:
        self.code = code
        self.detail = scrub(detail)
        super().__init__(f"{code}: {self.detail}")


_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+\b")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Also what turns the direction of a text around: a detail is shown in terminals and browsers."""


def scrub(detail: str) -> str:
    """`detail` as it may be stored: no address, secret, query of a URI or control character, ≤ 300 characters."""
    # Redacted before anything is cut off or taken out: half a secret would be recognised by nothing.
    plain = _CONTROL.sub(" ", _ADDRESS.sub("", redact(detail)))
    return " ".join(plain.split())[:DETAIL_MAX_CHARS]
