"""What torch raises is told apart: no memory, a device that is lost, a defect."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.errors import DeviceLostError
from pipeline.models.faults import lost_device, memory_problem, noticing_loss
from tests.fixtures.golden_vectors import tiny_encoder
from tests.fixtures.prepared import text_item
from tests.fixtures.small_device import SmallDevice, unit

CPU = torch.device("cpu")

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]
LOST = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: unspecified launch failure"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: misaligned address"),
]
DEFECTS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
    ValueError("CUDA error: device-side assert triggered"),  # not out of torch
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_no_memory(error: Exception) -> None:
    assert memory_problem(error)
    assert lost_device(error, CPU) is None


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_lost_device(error: Exception) -> None:
    with pytest.raises(type(error)):
        memory_problem(error)
    assert lost_device(error, CPU) == str(error)
    with pytest.raises(DeviceLostError, match="cpu is lost to this process") as raised, noticing_loss(CPU):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize("error", DEFECTS, ids=str)
def test_a_defect_is_raised_as_it_is(error: Exception) -> None:
    assert lost_device(error, CPU) is None
    for catch in (lambda: memory_problem(error), lambda: _through(error)):
        with pytest.raises(type(error)) as raised:
            catch()
        assert raised.value is error


def _through(error: Exception) -> None:
    with noticing_loss(CPU):
        raise error


def test_the_cpu_s_own_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert "allocate" in memory_problem(raised.value)


@pytest.mark.parametrize("error", NO_MEMORY[-2:], ids=str)
def test_whatever_says_that_memory_is_short_splits_the_batch(error: Exception) -> None:
    encoder, items = tiny_encoder(), [text_item(words, seed=words) for words in (10, 200, 20, 5)]
    expected = encoder.encode(items).vectors
    SmallDevice(encoder, 100, error)
    encoded = encoder.encode(items)
    assert [index for index, _ in encoded.too_large] == [1]
    np.testing.assert_allclose(unit(encoded.vectors[[0, 2, 3]]), unit(expected[[0, 2, 3]]), atol=1e-5)


def test_the_engine_says_that_its_device_is_lost() -> None:
    encoder = tiny_encoder()
    SmallDevice(encoder, 100, LOST[0])
    with pytest.raises(DeviceLostError):
        encoder.encode([text_item(200)])
