"""The safetensors files of a checkpoint folder: which they are, what they weigh, and a digest of what they hold.

In: a folder. Refused (ConfigError): no safetensors file, a shard that the index names but the folder lacks, a file
that is no safetensors file: whose header is huge or whose tensors lie outside of it, overlap, or have another size than
their shape and dtype say.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

__all__ = ["check_weights", "digest_weights", "weight_count", "weight_files"]

INDEX = "model.safetensors.index.json"

SAMPLE_BYTES = 4096
"""Read at the head and in the middle of each tensor: one page each, so that even 16 GB take about a second."""

MAX_HEADER_BYTES = 16 << 20
"""A hundred times what the header of the 8B model takes. The format's own limit, 100 MB, parses into gigabytes."""

_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""The format's dtypes."""

_LENGTH_BYTES = 8


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of `folder`, by name. Raises ConfigError if there are none or a shard is missing."""
    index = folder / INDEX
    if index.is_file():
        return [_shard(folder, name) for name in _shard_names(index)]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth"))
        found = f"; it holds {', '.join(pickled[:3])}, and pickled weights are never loaded" if pickled else ""
        raise ConfigError(f"{folder} holds no *.safetensors{found}. Convert or download the safetensors weights")
    return files


def check_weights(folder: Path) -> None:
    """Raise ConfigError unless every weight file of `folder` is whole and says of its tensors what is true."""
    for path in weight_files(folder):
        _tensors(_header(path), path)


def weight_count(folder: Path) -> int:
    """How many weights `folder` holds, whatever their dtype."""
    return sum(math.prod(entry.shape) for path in weight_files(folder) for entry in _tensors(_header(path), path))


def digest_weights(folder: Path) -> str:
    """Hex digest (128 bits) of the weights: names, sizes, headers, and two pages of every tensor.

    Reading whole files would cost every start a minute for the large model. A fine-tune or another precision
    changes the head of the tensors that it touches; what only edits other pages of a tensor, as no training
    does, goes unseen.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in weight_files(folder):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        for chunk in _samples(path):
            digest.update(chunk)
    return digest.hexdigest()


def _shard_names(index: Path) -> list[str]:
    try:
        names = {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{index} is no index of safetensors shards ({error}); download it again") from None
    return sorted(names)


def _shard(folder: Path, name: str) -> Path:
    path = folder / name
    if Path(name).name != name or path.suffix != ".safetensors":
        raise ConfigError(f"{folder / INDEX} names {name!r}, which is no safetensors file of the same folder")
    if not path.is_file():
        raise ConfigError(f"{folder} lacks {name}, which {INDEX} names: the download is incomplete, run it again")
    return path


def _samples(path: Path) -> Iterator[bytes]:
    header = _header(path)
    yield header
    extents = sorted((entry.start, entry.end) for entry in _tensors(header, path))
    with path.open("rb") as file:
        for start, end in extents:
            for offset in (start, (start + end) // 2):
                file.seek(_LENGTH_BYTES + len(header) + offset)
                yield file.read(min(SAMPLE_BYTES, end - offset))


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = file.read(size) if size <= MAX_HEADER_BYTES else b""
    if not header or len(header) < size:
        raise _damaged(path)
    return header


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor's place behind the header, in bytes, and its shape."""

    start: int
    end: int
    shape: tuple[int, ...]


def _tensors(header: bytes, path: Path) -> list[_Tensor]:
    try:
        found = [_tensor(entry) for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path) from None
    room, at = path.stat().st_size - _LENGTH_BYTES - len(header), 0
    for tensor in sorted(found, key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start < at or tensor.end > room:
            raise _damaged(path)
        at = tensor.end
    return found


def _tensor(entry: dict[str, Any]) -> _Tensor:
    start, end = (int(offset) for offset in entry["data_offsets"])
    shape = tuple(int(size) for size in entry["shape"])
    if min(shape, default=0) < 0 or (end - start) * 8 != math.prod(shape) * _BITS[entry["dtype"]]:
        raise ValueError("the size of a tensor is not that of its shape")
    return _Tensor(start, end, shape)


def _damaged(path: Path) -> ConfigError:
    return ConfigError(f"{path} is no safetensors file, or damaged; download it again")
