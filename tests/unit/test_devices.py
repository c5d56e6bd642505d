"""What torch sees: devices that are there, which of them is current, and what a GPU can do."""

from __future__ import annotations

import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.models.devices import Gpu, free_bytes, gpus, pick_device, torch_build

NAMES, FREE = ("new card", "old card"), (60, 3)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine of two GPUs, an Ampere and a Turing one; what was made the current device, in order."""
    made_current: list[torch.device] = []
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "device_count", lambda: 2)
    monkeypatch.setattr(cuda, "set_device", made_current.append)
    monkeypatch.setattr(cuda, "mem_get_info", lambda index: (FREE[index], 80))
    monkeypatch.setattr(cuda, "get_device_capability", lambda index: ((8, 0), (7, 5))[index])
    monkeypatch.setattr(cuda, "get_device_name", lambda index: NAMES[index])
    return made_current


@pytest.mark.parametrize(("asked", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_gpu_that_is_picked_is_the_current_one(current: list[torch.device], asked: str, index: int) -> None:
    assert pick_device(asked) == torch.device("cuda", index)
    assert current == [torch.device("cuda", index)]


def test_a_cpu_leaves_the_gpus_alone(current: list[torch.device]) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert current == []


def test_auto_is_the_cpu_where_no_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


def test_devices_that_are_not_there_are_refused(current: list[torch.device]) -> None:
    with pytest.raises(ConfigError, match="'gpu0' is none"):
        pick_device("gpu0")
    with pytest.raises(ConfigError, match="'cuda:2' is not there: torch sees 2 GPUs"):
        pick_device("cuda:2")
    assert current == []


def test_every_gpu_is_listed_with_what_it_can_do(current: list[torch.device]) -> None:
    assert gpus() == [Gpu("new card", 80, 60, True), Gpu("old card", 80, 3, False)]


def test_memory_that_the_allocator_keeps_is_free(current: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (FREE[device.index], 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 4)
    assert free_bytes(torch.device("cuda", 1)) == 3 + 10 - 4
    assert free_bytes(torch.device("cpu")) == 0


def test_the_build_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    assert torch_build() == "CUDA 12.9"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert torch_build() == "CPU build"
