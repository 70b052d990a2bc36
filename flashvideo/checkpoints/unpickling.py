"""The object tree of a torch file, without running anything in it and without more memory than the file justifies.

A pickle is a program. This reader lets it build dictionaries, lists and numbers, turns tensors into inert references
to a place in the file, and everything else (a training script's Namespace, say) into placeholders that do nothing.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

_MOST_CLASSES = 4096  # that are named in a checkpoint; each becomes a placeholder's class
_SCALARS = (str, int, float, bytes, type(None))
# Functions of these modules have no place in a checkpoint: a file that names them is refused, not only defused.
_CODE_MODULES = {
    *("__builtin__", "_pickle", "_thread", "asyncio", "builtins", "code", "codeop", "commands", "ctypes", "http"),
    *("importlib", "inspect", "marshal", "multiprocessing", "nt", "operator", "os", "pickle", "pip", "pkgutil"),
    *("popen2", "posix", "posixpath", "pty", "runpy", "shutil", "signal", "site", "smtplib", "socket", "subprocess"),
    *("sys", "tempfile", "threading", "timeit", "urllib", "webbrowser"),
}


class InertPlaceholder:
    """Stands for an object that is not rebuilt. It accepts whatever a pickle does to it and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> InertPlaceholder:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> InertPlaceholder:
        return InertPlaceholder()

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class StorageRef:
    """A storage record in the file."""

    key: str
    dtype: torch.dtype


@dataclass(frozen=True)
class TensorRef:
    """Where a tensor lies: a strided view (in elements) of a storage record."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype


def _tensor_ref(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    if not isinstance(storage, StorageRef) or not storage.key:
        raise pickle.UnpicklingError("a tensor without a storage")
    return TensorRef(storage, int(offset), tuple(int(n) for n in size), tuple(int(n) for n in stride))


def _tensor_ref_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, *_: Any
) -> TensorRef:
    """Newer dtypes (fp8) are saved as bytes with the dtype beside them."""
    if not isinstance(storage, StorageRef) or not isinstance(dtype, torch.dtype):
        raise pickle.UnpicklingError("a tensor without a storage or dtype")
    return _tensor_ref(StorageRef(storage.key, dtype), offset, size, stride)


def _first(value: Any = None, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> InertPlaceholder:
    return InertPlaceholder()


_REBUILDERS = {
    **dict.fromkeys(("_rebuild_tensor_v2", "_rebuild_tensor"), _tensor_ref),
    **dict.fromkeys(("_rebuild_parameter", "_rebuild_parameter_with_state"), _first),
    "_rebuild_tensor_v3": _tensor_ref_v3,
}
_STORAGE_DTYPES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
    **{"UntypedStorage": torch.uint8, "TypedStorage": torch.uint8},
}
# What these make of their arguments is not looked at, and could be far larger than the arguments.
_HARMLESS = ("set", "frozenset", "str", "bytes", "bytearray", "complex", "int", "float", "bool")


class TensorUnpickler(pickle._Unpickler):
    """Python's unpickler in Python: its memo is a dictionary, whereas the one in C reserves memory for any index that a
    pickle names.

    Args:
        stream: of the pickle.
        room: elements that may be copied in all, which bounds lists of copies of lists.
    """

    stack: list[Any]  # pickle's own attributes, which types of it leave out
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, stream: Any, room: int) -> None:
        super().__init__(stream)
        self.storages: dict[str, StorageRef] = {}  # as the pickle names them
        self._room, self._classes = room, dict[tuple[str, str], type]()

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _REBUILDERS:
            return _REBUILDERS[name]
        if (module, name) == ("collections", "OrderedDict"):
            return self._copying(OrderedDict)
        if (module, name) == ("torch", "Size"):
            return self._copying(tuple)
        if module in ("torch", "torch.storage"):
            if name in _STORAGE_DTYPES:
                return StorageRef("", _STORAGE_DTYPES[name])
            if isinstance(value := getattr(torch, name, None), torch.dtype):
                return value
        if module in ("builtins", "__builtin__"):
            if name in ("dict", "list", "tuple"):
                return self._copying({"dict": dict, "list": list, "tuple": tuple}[name])
            if name == "object":
                return InertPlaceholder
            if name in _HARMLESS:
                return _nothing
        if module.split(".")[0] in _CODE_MODULES:
            raise pickle.UnpicklingError(f"it contains code: it asks to run {module}.{name}")
        if (module, name) not in self._classes:
            if len(self._classes) == _MOST_CLASSES:
                raise pickle.UnpicklingError(f"it names more than {_MOST_CLASSES} classes")
            inside = {"__module__": "placeholder." + module}
            self._classes[module, name] = type(name.rsplit(".", 1)[-1], (InertPlaceholder,), inside)
        return self._classes[module, name]

    def _copying(self, kind: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any) -> Any:
            self._room -= sum(len(argument) for argument in arguments if isinstance(argument, Sized))
            if self._room < 0:
                raise pickle.UnpicklingError("it unfolds to more than it holds")
            return kind(*arguments)

        return make

    def persistent_load(self, pid: Any) -> StorageRef:
        kind, storage_type, key, *rest = pid
        if kind != "storage" or not isinstance(storage_type, StorageRef) or not isinstance(key, str) or not key:
            raise pickle.UnpicklingError("an unknown kind of stored object")
        if len(rest) > 2 and rest[2] is not None:
            raise pickle.UnpicklingError("a view of a storage, as torch before 0.4 wrote it")
        return self.storages.setdefault(key, StorageRef(key, storage_type.dtype))

    def _set_items(self) -> None:
        """Keys are plain: to hash a tuple of tuples of one tuple takes longer than anybody waits."""
        items = self.pop_mark()
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, _SCALARS):
                target[key] = value

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        if isinstance(key, _SCALARS):
            self.stack[-1][key] = value

    def _drop_state(self) -> None:
        self.stack.pop()

    def _drop_items(self) -> None:
        self.pop_mark()

    def _drop_set(self) -> None:
        self.pop_mark()
        self.append(InertPlaceholder())

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: _set_items,
        pickle.SETITEM[0]: _set_item,
        pickle.BUILD[0]: _drop_state,  # an object's state is of no interest
        pickle.ADDITEMS[0]: _drop_items,  # nor are sets
        pickle.FROZENSET[0]: _drop_set,
    }
