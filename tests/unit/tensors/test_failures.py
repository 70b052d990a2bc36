"""What libraries say when something is too large, and what they say of other failures."""

from __future__ import annotations

import errno

import pytest
import torch

from flashvideo.tensors.failures import LARGE, is_too_large

# As the libraries say it, sizes and places left as they were seen.
TOO_LARGE = [
    torch.cuda.OutOfMemoryError("Allocation on device"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    *map(
        RuntimeError,
        [
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.64 GiB",
            "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
            "CUDA driver error: out of memory",
            "cudaErrorMemoryAllocation: out of memory",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "HIP out of memory. Tried to allocate 2.00 GiB",
            "HIP error: out of memory",
            "HIP error: hipErrorOutOfMemory",
            "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
            "rocblas_status_memory_error",
            "miopenStatusAllocFailed",
            "XPU out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.11 GiB.",
            "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
            "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
            "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES) -5 (PI_ERROR_OUT_OF_RESOURCES)",
            "Current platform can NOT allocate memory block with size larger than 4GB! Tried to allocate  5.00 GB",
            "MPS backend out of memory (MPS allocated: 7.64 GiB, max allowed: 88.13 GiB). Tried to allocate 33.92 GiB",
            "Invalid buffer size: 21.30 GiB",
            "MPSNDArray.mm:850: failed assertion `[MPSNDArray initWithDevice:] Error: total bytes of NDArray > 2**32'",
            "MPSGraph does not support tensor dims larger than INT_MAX",
            "NPU out of memory. Tried to allocate 2.00 GiB",
            "Could not allocate tensor with 4096 bytes. There is not enough GPU video memory available!",
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 36028797018963968 bytes. Error code 12 (Cannot allocate memory)",
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
            "Storage size calculation overflowed with sizes=[4611686018427387904]",
            "unable to mmap 9 bytes from file </tmp/1.bin>: Cannot allocate memory (12)",
            "std::bad_alloc",
            "integer out of range",
            "the tensor needs an int32 index",
            "Tensors with more than 2^31-1 elements are not supported",
            "upsample_nearest2d_nhwc only supports output tensors with less than INT_MAX elements, but got [1]",
            "input tensor must fit into 32-bit index math",
            "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got false.",
            "Expected output.numel() <= std::numeric_limits<int32_t>::max() to be true, but got false.",
            "at::cuda::blas::gemm argument m must be non-negative and less than 2147483647 but got 4294967296",
            "N > 0 INTERNAL ASSERT FAILED. CUDA kernel launch blocks must be positive, but got N=-2147483648",
        ],
    ),
]
MAYBE = [
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: invalid configuration argument",
    "GET was unable to find an engine to execute this computation",
    "miopenStatusUnknownError",
    "miopenStatusInternalError",
    "could not create a primitive",
    "could not create a memory object",
    "could not execute a primitive",
]
OTHERS = [
    ValueError("out of memory"),
    KeyError("CUDA out of memory"),
    KeyboardInterrupt("out of memory"),
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError(errno.ENOENT, "out of memory"),
    *map(
        RuntimeError,
        [
            "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: device-side assert triggered",
            "CUDA error: no kernel image is available for execution on the device",
            "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
            "CUDA error: unspecified launch failure",
            "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
            "cuDNN error: CUDNN_STATUS_BAD_PARAM",
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
            "Input type (c10::BFloat16) and bias type (float) should be the same",
            "index 5 is out of bounds for dimension 0 with size 5",
            "Kernel size can't be greater than actual input size",
            "value cannot be converted to type uint8_t without overflow",
            "unable to resize file </tmp/1.bin> to the right size: No space left on device (28)",
            "Found no NVIDIA driver on your system.",
        ],
    ),
    NotImplementedError("The operator 'aten::x' is not currently implemented for the MPS device."),
]


def named(errors: list[BaseException]) -> list[str]:
    return [f"{type(error).__name__} {error}"[:60] for error in errors]


@pytest.mark.parametrize("error", TOO_LARGE, ids=named(TOO_LARGE))
def test_too_large_whatever_it_is_called(error: BaseException) -> None:
    assert is_too_large(error)


@pytest.mark.parametrize("message", MAYBE)
def test_errors_with_several_reasons_count_for_large_inputs(message: str) -> None:
    assert is_too_large(RuntimeError(message), LARGE)
    assert not is_too_large(RuntimeError(message), LARGE - 1)
    assert not is_too_large(RuntimeError(message))


@pytest.mark.parametrize("error", OTHERS, ids=named(OTHERS))
def test_other_failures_are_no_lack_of_room(error: BaseException) -> None:
    assert not is_too_large(error, 1 << 40)


def test_what_torch_says_here() -> None:
    for size in (1 << 55, 1 << 62):
        with pytest.raises(RuntimeError) as caught:
            torch.empty(size, dtype=torch.float64)
        assert is_too_large(caught.value)
