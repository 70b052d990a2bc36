"""Counting what a device would be asked to do: kernels, bytes, operations, memory, and waits of the host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from ...tensors import fusing
from .live import LiveBytes

PRODUCT, CONVOLUTION, ATTENTION, FUSED = "matrix products", "convolutions", "attention", "fused"
REDUCTION, COPY, ELEMENTWISE = "norms and sums", "copies", "element-wise"
KINDS = (PRODUCT, CONVOLUTION, ATTENTION, FUSED, REDUCTION, COPY, ELEMENTWISE)
_NAMES = {  # beginnings of operations' names
    PRODUCT: ("mm", "addmm", "bmm", "baddbmm", "linear", "_scaled_mm"),
    CONVOLUTION: ("convolution", "_convolution", "cudnn_convolution", "mkldnn_convolution"),
    ATTENTION: ("_scaled_dot_product", "scaled_dot_product"),
    REDUCTION: ("native_layer_norm", "native_group_norm", "batch_norm", "var", "mean", "sum", "all", "amax", "amin"),
    COPY: (
        "copy_", "clone", "_to_copy", "cat", "stack", "contiguous", "index", "gather", "fill", "zero", "constant_pad",
        "unfold_copy", "upsample", "repeat", "arange", "full", "ones",
    ),
}  # fmt: skip
_NOTHING = ("empty", "new_empty", "detach", "set_", "resize_", "_local_scalar_dense")
_WRITTEN_ONLY = ("copy_", "fill_", "zero_", "normal_", "uniform_", "random_")
_READS_A_PART = ("index.Tensor", "index_select", "embedding", "gather")


@dataclass(frozen=True)
class Work:
    """Launches of kernels, bytes that they read and write, operations of products, convolutions and attention."""

    launches: int = 0
    bytes: int = 0
    operations: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.launches + other.launches, self.bytes + other.bytes, self.operations + other.operations)

    def __sub__(self, other: Work) -> Work:
        return self + other * -1

    def __mul__(self, times: int) -> Work:
        return Work(times * self.launches, times * self.bytes, times * self.operations)


@dataclass(frozen=True)
class Count:
    """What a run asks of a device.

    Attributes:
        work: by (part of the network, kind of kernel), see :data:`KINDS`.
        peak_bytes: the most that live at once, beside weights, inputs and planes that wait; without kernels' scratch.
        stored_bytes: the most of planes that wait (VAE).
        host_reads: how often the host waits for a value from the device.
    """

    work: Mapping[tuple[str, str], Work] = field(default_factory=dict)
    peak_bytes: int = 0
    stored_bytes: int = 0
    host_reads: int = 0

    @property
    def total(self) -> Work:
        return sum(self.work.values(), Work())

    def of(self, *kinds: str) -> Work:
        """Of some kinds of kernels."""
        return sum((work for (_, kind), work in self.work.items() if kind in kinds), Work())

    def besides(self, *kinds: str) -> Work:
        """Of all other kinds of kernels."""
        return self.total - self.of(*kinds)

    def extended(self, fewer: Count, times: int) -> Count:
        """With what this count has more than ``fewer`` done ``times`` times again: layers or chunks of one kind."""
        keys = (*self.work, *(key for key in fewer.work if key not in self.work))
        none = Work()
        work = {
            key: self.work.get(key, none) + (self.work.get(key, none) - fewer.work.get(key, none)) * times
            for key in keys
        }
        return Count(
            work, self.peak_bytes, self.stored_bytes, self.host_reads + times * (self.host_reads - fewer.host_reads)
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        parts = [{"part": part, "kind": kind, **vars(work)} for (part, kind), work in sorted(self.work.items()) if work]
        peaks = {"peak_bytes": self.peak_bytes, "stored_bytes": self.stored_bytes, "host_reads": self.host_reads}
        return {**vars(self.total), **peaks, "parts": parts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Count:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: another file's values.
        """
        try:
            work = {
                (str(part["part"]), str(part["kind"])): Work(
                    *(int(part[name]) for name in ("launches", "bytes", "operations"))
                )
                for part in values["parts"]
            }
            return cls(work, *(int(values[name]) for name in ("peak_bytes", "stored_bytes", "host_reads")))
        except (KeyError, TypeError) as error:
            raise ValueError(f"these are no counts ({error!r}); expected what flashvideo bench --json wrote.") from None


class KernelCounter(LiveBytes):
    """Counts every operation on tensors of one device while the mode is on.

    On the meta device nothing is computed, and kernels of our own count as run where a device would run them; a value
    that the host reads there is 1. Views and allocations are free. An operation of torch counts as one launch.

    Args:
        network: whose modules' names tell the parts.
        meta: count what is on the meta device, else what is not.
        fused: count kernels of our own as run; only on the meta device is there a choice.
    """

    def __init__(self, network: nn.Module, *, meta: bool = True, fused: bool = True) -> None:
        super().__init__()
        self.counts_meta, self._fused = meta, fused
        self.host_reads = 0
        self._work: dict[tuple[str, str], Work] = defaultdict(Work)
        self._parts = {module: _part(name) for name, module in network.named_modules()}
        self._stack = ["network"]
        self._opened = ExitStack()

    def __enter__(self) -> KernelCounter:
        def enter(module: nn.Module, _: Any) -> None:
            self._stack.append(self._parts.get(module, self._stack[-1]))

        def leave(*_: Any) -> None:
            self._stack.pop()

        with ExitStack() as opened:
            opened.callback(register_module_forward_pre_hook(enter).remove)
            opened.callback(register_module_forward_hook(leave, always_call=True).remove)
            if self._fused:
                opened.enter_context(fusing.recorded(self._record))
            super().__enter__()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        with self._opened:
            super().__exit__(*error)

    def count(self) -> Count:
        """So far."""
        return Count(dict(self._work), self.peak["computing"], self.peak["stored"], self.host_reads)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.name().removeprefix("aten::")
        if name.startswith("_local_scalar_dense") and self.counts(args[0]):
            self.host_reads += 1
            if self.counts_meta:
                return torch.ones((), dtype=args[0].dtype).item()
        self.see_before(args, kwargs)
        result = func(*args, **kwargs)
        if self.counts_meta and func is torch.ops.aten.convolution.default:
            result = _channels_last(result)  # as on a device; the meta device does not know that
        self.see_after(result)
        if not name.startswith(_NOTHING):
            self._add(func, name, args, kwargs, result)
        return result

    def _add(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        given = _tensors((args, () if name.endswith("out") else kwargs))  # what is written into comes as a keyword
        inputs = [value for value in given if self.counts(value)]
        outputs = [value for value in _tensors(result) if self.counts(value)]
        if not outputs or (not func._schema.is_mutable and _are_views(inputs, outputs)):
            return
        operations = 0
        if func._overloadpacket in flop_registry:
            operations = flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        written = sum(map(_bytes, outputs))
        if name.startswith(_READS_A_PART):
            read = written + sum(map(_bytes, inputs[1:]))
        else:
            read = sum(map(_bytes, inputs[1:] if name.startswith(_WRITTEN_ONLY) else inputs))
        self._work[self._stack[-1], kind_of(name)] += Work(1, read + written, int(operations))

    def _record(self, kernel: str, arguments: tuple[Any, ...]) -> None:
        tensors = _tensors(arguments)
        overwritten = tensors[0] if kernel == "gated_add" else None  # reads what it writes; others write apart
        size = sum(map(_bytes, tensors)) + (0 if overwritten is None else _bytes(overwritten))
        self._work[self._stack[-1], FUSED] += Work(1, size)


def kind_of(name: str) -> str:
    """The kind of kernel behind an operation of torch."""
    return next((kind for kind, names in _NAMES.items() if name.startswith(names)), ELEMENTWISE)


def _part(name: str) -> str:
    words = [word for word in name.split(".") if word and not word.isdigit()]
    return words[-1] if words else "network"


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_iter(values) if isinstance(value, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """Of the elements that a kernel touches: what is expanded is read once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride or size == 0 else 1
    return count * tensor.element_size()


def _are_views(inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> bool:
    known = {value.untyped_storage()._cdata for value in inputs}
    return all(value.untyped_storage()._cdata in known for value in outputs)


def _channels_last(result: Tensor) -> Tensor:
    layout = torch.channels_last if result.ndim == 4 else torch.channels_last_3d
    return torch.empty(result.shape, dtype=result.dtype, device=result.device, memory_format=layout)


@contextmanager
def counting(network: nn.Module, *, meta: bool = True, fused: bool = True) -> Iterator[KernelCounter]:
    """Count a block without gradients."""
    with torch.no_grad(), KernelCounter(network, meta=meta, fused=fused) as counter:
        yield counter
