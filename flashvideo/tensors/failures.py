"""Which errors mean that something was too large: for the memory, or for the numbers that a library counts with."""

from __future__ import annotations

import errno

import torch

# What the messages hold, in lower case, whatever the size. Libraries raise plain RuntimeErrors for all of it.
_TOO_LARGE = (
    # no memory left
    "out of memory",  # CUDA, HIP, MPS, XPU, NPU, NVML: "CUDA out of memory", "CUDA error: out of memory" ...
    "outofmemory",  # hipErrorOutOfMemory
    "memoryallocation",  # cudaErrorMemoryAllocation
    "can't allocate memory",  # DefaultCPUAllocator
    "cannot allocate memory",  # the system's own words, for mapped files and libraries
    "not allocate memory",  # "Current platform can NOT allocate memory block with size larger than 4GB" (XPU)
    "not enough memory",  # DefaultCPUAllocator on Windows
    "not enough gpu video memory",  # DirectML
    "status_alloc_failed",  # cuBLAS, cuDNN, hipBLAS, cuFFT ...
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, ..._HOST_ALLOCATION_FAILED
    "miopenstatusallocfailed",
    "rocblas_status_memory_error",
    "error_out_of_device_memory",  # SYCL and Level Zero: UR_, PI_, ZE_RESULT_
    "error_out_of_host_memory",
    "error_out_of_resources",
    "invalid buffer size",  # Metal's largest buffer
    "bad_alloc",
    # more elements, or bytes, than an index can count
    "integer out of range",
    "int32 index",
    "32-bit index",  # "input tensor must fit into 32-bit index math"
    "canuse32bitindexmath",
    "int_max",  # "only supports output tensors with less than INT_MAX elements", tensors' dims on MPS
    "numeric_limits<int32_t>::max()",
    "numeric_limits<int>::max()",
    "2^31",
    "2**31",
    "2**32",  # "total bytes of NDArray > 2**32"
    "less than 2147483647",  # cuBLAS's sizes
    "launch blocks must be positive",  # the number of blocks has run over
    "storage size calculation overflowed",
)
# What libraries say of inputs that are too large for them, and of much else: it counts for large inputs only.
_MAYBE_TOO_LARGE = (
    "cudnn_status_not_supported",
    "cudnn_status_internal_error",
    "cudnn_status_execution_failed",
    "miopenstatusinternalerror",
    "miopenstatusunknownerror",
    "unable to find an engine",
    "invalid configuration argument",
    "could not create a primitive",
    "could not create a memory",
    "could not execute a primitive",
)
LARGE = 1 << 20
"""Elements from which on an input is taken for the reason of an error that has others too."""


def is_too_large(error: BaseException, elements: int = 0) -> bool:
    """Whether ``error`` says that something was too large: half of it may run.

    Args:
        error: of any library on the way.
        elements: that the failed work read, if that is known.
    """
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    message = str(error).lower()
    if any(words in message for words in _TOO_LARGE):
        return True
    return elements >= LARGE and any(words in message for words in _MAYBE_TOO_LARGE)
