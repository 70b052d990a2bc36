"""Opening weight files of every kind behind one small interface, tensors mapped from disk one at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checksums import DamagedFileError, with_checks
from .file_kinds import GGUF, LEGACY_TORCH, SAFETENSORS, TORCH, file_kind
from .paths import expanded
from .pickles import PickledFile
from .unpickling import TensorRef

if TYPE_CHECKING:
    from .gguf_files import GgmlWeight
    from .quantized import QuantizedWeight

RowReader = Callable[[int, int], Tensor]  # (start, stop) -> these rows of a tensor

_DEEPEST = 8  # tables in tables, in which a pickle's tensors are looked for
_SAFETENSORS_DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "BOOL": torch.bool, "U8": torch.uint8},
    **{"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64},
}
if hasattr(torch, "float8_e8m0fnu"):  # scales of mxfp8; torch before 2.7 does not know it
    _SAFETENSORS_DTYPES["F8_E8M0"] = torch.float8_e8m0fnu
DTYPE_NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
    torch.float64: "fp64",
}


_NAMES_SHOWN = 12


def name_list(names: Iterable[str]) -> str:
    """Names for an error message, shortened; "none" if there are none."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return ", ".join(ordered[:_NAMES_SHOWN]) + more or "none"


_BLOCK_ELEMENTS = 1 << 20  # tensors are converted in blocks of this size, which bounds the fp32 temporaries


def row_blocks(start: int, stop: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows from ``start`` to ``stop``, each with little enough in it for fp32 temporaries."""
    rows = max(1, _BLOCK_ELEMENTS // max(1, columns))
    for row in range(start, stop, rows):
        yield row, min(stop, row + rows)


def read_in_blocks(rows: RowReader, target: Tensor) -> Tensor:
    """Fill ``target``, which has at least one dimension, converted to its dtype."""
    for start, stop in row_blocks(0, len(target), torch.Size(target.shape[1:]).numel()):
        target[start:stop] = rows(start, stop)
    return target


@dataclass(frozen=True)
class TensorInfo:
    """Shape, dtype and the way to read one tensor. ``read()`` may give a view of the file; ``load()`` gives a copy.

    Attributes:
        name: in the file.
        quantized: what it is made from, if that is more than one tensor; ``read()`` then gives fp32.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    name: str = ""
    quantized: QuantizedWeight | GgmlWeight | None = None

    @property
    def numeric(self) -> bool:
        """Whether these are real numbers: whole ones without a scale are codes of something unknown."""
        return self.dtype.is_floating_point or self.quantized is not None

    def rows(self) -> RowReader:
        """A function of (start, stop) that gives these rows: views of a plain tensor, fp32 of a quantised one."""
        if self.quantized is not None:
            return self.quantized.rows()
        tensor = self.read()
        return lambda start, stop: tensor[start:stop]

    def load(self, dtype: torch.dtype) -> Tensor:
        """The tensor in memory of its own."""
        if self.quantized is not None:
            return read_in_blocks(self.quantized.rows(), torch.empty(self.shape, dtype=dtype))
        return self.read().to(dtype, copy=True).contiguous()


@dataclass(frozen=True)
class WeightFile:
    """An opened checkpoint.

    Attributes:
        path: file or folder that was asked for.
        kind: ``safetensors``, ``pickle`` or ``gguf``.
        tensors: name -> :class:`TensorInfo`, in file order.
        metadata: safetensors' header metadata.
        config: contents of the folder's ``config.json``, if there is one.
        files: the files that the tensors come from.
        container: key of a pickle that the tensors were under (``module``, ``state_dict``), "" if none.
        extra: a pickle's numbers, texts and tables of these beside its tensors.
    """

    path: Path
    kind: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    container: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: info.shape for name, info in self.tensors.items()}

    def main_dtype(self) -> torch.dtype:
        """The floating dtype that most elements have; quantised ones that are whole numbers count as bf16."""
        counts: dict[torch.dtype, int] = {}
        for info in self.tensors.values():
            if info.numeric:
                dtype = info.dtype if info.dtype.is_floating_point else torch.bfloat16
                counts[dtype] = counts.get(dtype, 0) + max(1, torch.Size(info.shape).numel())
        return max(counts, key=lambda dtype: counts[dtype]) if counts else torch.float32

    def compute_dtype(self) -> torch.dtype:
        """The file's dtype; bf16 for fp8, which is storage only."""
        dtype = self.main_dtype()
        return torch.bfloat16 if dtype.itemsize == 1 else dtype


def open_weights(path: str | Path, part: str = "") -> WeightFile:
    """Open a checkpoint: a safetensors file, a torch zip file, or a folder as diffusers and transformers save it.

    Only headers are read here. Pickles are never executed.

    Args:
        part: the folder to take where ``path`` is a pipeline's: ``vae``, ``text_encoder`` ...

    Raises:
        ValueError: no such file, a web page or pointer instead of weights, a truncated or damaged file, unsafe content.
    """
    path = expanded(path)
    if part and (path / part).is_dir():
        path = path / part
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ValueError(
            f"There is no file {path}. Give the path of a checkpoint (.safetensors, .pt) or of its folder."
        )
    try:
        kind = file_kind(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}). Check its permissions and its disk.") from error
    if kind.name in (TORCH, LEGACY_TORCH):
        return _open_pickle(path)
    if kind.name == GGUF:
        from .gguf_files import open_gguf

        return WeightFile(path, "gguf", open_gguf(path), files=(path,))
    if kind.name not in ("", SAFETENSORS):
        error_kind = DamagedFileError if kind.unfinished else ValueError
        raise error_kind(f"{path} is {kind.name}, not weights. {kind.advice or 'Give a file of weights.'}")
    return _open_safetensors(path)


def _begins_as_safetensors(head: bytes) -> bool:
    """Whether a file's first nine bytes, or fewer, are a header's: a length below 16 MB and a brace."""
    return head[3:8].ljust(5, b"\0") == b"\0" * 5 and head[8:9] in (b"", b"{")


def _open_safetensors(path: Path) -> WeightFile:
    try:
        handle = safe_open(path, framework="pt", device="cpu")
        tensors = {}
        for name in handle.keys():  # noqa: SIM118 (not a dict)
            view = handle.get_slice(name)
            dtype = _SAFETENSORS_DTYPES.get(view.get_dtype())
            if dtype is None:
                raise ValueError(f"{path} has a tensor {name} of the unsupported type {view.get_dtype()}.")
            tensors[name] = TensorInfo(tuple(view.get_shape()), dtype, partial(handle.get_tensor, name), name)
        metadata = dict(handle.metadata() or {})
        return WeightFile(path, "safetensors", with_checks(path, tensors, metadata), metadata, files=(path,))
    except SafetensorError as error:
        with path.open("rb") as stream:
            ours = _begins_as_safetensors(stream.read(9))
        raise (DamagedFileError if ours else ValueError)(
            f"{path} is no readable safetensors file ({error}): it is truncated, damaged or of another kind. "
            "Download or copy it again."
        ) from error


def _find_tensors(tree: Any) -> tuple[str, dict[str, TensorRef], dict[str, Any]]:
    """The tensors in a checkpoint's object tree: (the table that they are all in, they by names, what else is there).

    Those of several tables (a model and its average, say) have the table's name in front of theirs. Tensors beside
    tables of weights, whose names have dots, are no weights.
    """
    tables: dict[str, dict[Any, Any]] = {}
    waiting, seen = [("", tree, 0)], set[int]()
    while waiting:
        name, table, depth = waiting.pop(0)
        if not isinstance(table, dict) or id(table) in seen or depth > _DEEPEST:
            continue
        seen.add(id(table))
        if any(isinstance(value, TensorRef) for value in table.values()):
            tables[name] = table
        waiting += [
            (f"{name}.{key}" if name else key, v, depth + 1) for key, v in table.items() if isinstance(key, str)
        ]
    found = {name: _tensors_in(table) for name, table in tables.items()}
    weights = {name: refs for name, refs in found.items() if any("." in key for key in refs)} or found
    if len(weights) == 1:
        (name,) = weights
        return name, weights[name], tables[name]
    joined = {f"{name}.{key}" if name else key: ref for name, refs in weights.items() for key, ref in refs.items()}
    return "", joined, {}


def _tensors_in(table: dict[Any, Any]) -> dict[str, TensorRef]:
    return {str(key): ref for key, ref in table.items() if isinstance(ref, TensorRef)}


def _extra(tree: Any, table: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says beside its tensors, in their table or around it."""
    around = tree if isinstance(tree, dict) else {}
    plain = (bool, int, float, str, dict)
    return {
        str(key): value for key, value in {**around, **table}.items() if isinstance(value, plain) and value is not table
    }


def _open_pickle(path: Path) -> WeightFile:
    pickled = PickledFile(path)
    container, refs, table = _find_tensors(pickled.tree)
    if not refs:
        raise ValueError(f"{path} holds no dictionary of tensors. Give a checkpoint with its weights under 'module'.")
    for ref in refs.values():
        pickled.check(ref)
    tensors = {name: TensorInfo(ref.shape, ref.dtype, partial(pickled.tensor, ref), name) for name, ref in refs.items()}
    return WeightFile(path, "pickle", tensors, files=(path,), container=container, extra=_extra(pickled.tree, table))


_SHARDED = ("*.safetensors.index.json", "*pytorch_model*.bin.index.json")  # what a folder may hold, best first
_WHOLE = ("*.safetensors", "*_model*.bin")  # pytorch_model, diffusion_pytorch_model, a LoRA's adapter_model


def _weight_files(folder: Path) -> list[Path]:
    """The files that make up a folder's weights, none if there are none."""
    for sharded, whole in zip(_SHARDED, _WHOLE, strict=True):
        if index := sorted(folder.glob(sharded)):
            return _shards(index[0])
        if files := sorted(folder.glob(whole)):
            if len(files) > 1:
                names = name_list(file.name for file in files)
                raise ValueError(f"{folder} has several files of weights and no index: name the one to load ({names}).")
            return files
    return []


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if not names or not all(Path(name).name == name for name in names):
            raise ValueError("it names files elsewhere or none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of shards ({error}). Download the folder again.") from error
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise ValueError(f"{index.parent} lacks {name_list(missing)}, which its index names. Download them too.")
    return [index.parent / name for name in names]


def _open_folder(folder: Path) -> WeightFile:
    home, files = next(
        ((home, files) for home in (folder, folder / "transformer") if (files := _weight_files(home))), (folder, [])
    )
    if not files:
        raise ValueError(
            f"{folder} has no weights (.safetensors or pytorch_model.bin), neither itself nor in transformer/. Give "
            f"their folder, or name their file. It has {name_list(entry.name for entry in folder.iterdir())}."
        )
    opened = [open_weights(file) for file in files]
    tensors: dict[str, TensorInfo] = {}
    for weights in opened:
        if twice := set(tensors) & set(weights.tensors):
            raise ValueError(f"{home} has {name_list(twice)} in two of its shards. Download the folder again.")
        tensors |= weights.tensors
    config_file = home / "config.json"
    try:
        config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
        if not isinstance(config, dict):
            raise ValueError("expected a table")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config_file} is no JSON ({error}). Download the folder again.") from error
    return WeightFile(folder, opened[0].kind, tensors, opened[0].metadata, config, tuple(files))


def sha256(files: tuple[Path, ...]) -> str:
    """SHA-256 of the files' bytes, one after the other."""
    digest = hashlib.sha256()
    for file in files:
        for block in _blocks(file):
            digest.update(block)
    return digest.hexdigest()


_HASHED_WHOLE, _SAMPLES, _SAMPLE_BYTES = 1 << 26, 1024, 1 << 16


def fingerprint(files: Iterable[Path]) -> str:
    """Twelve digits that tell weights apart, whatever they are called, in a moment for files of any size.

    Files beyond 64 MiB are looked at in 1024 places, from end to end: training, merging and converting change all of
    them.
    """
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8, "little"))
        if size <= _HASHED_WHOLE:
            for block in _blocks(file):
                digest.update(block)
            continue
        with file.open("rb") as stream:
            for number in range(_SAMPLES):
                stream.seek((size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def _blocks(file: Path, size: int = 1 << 22) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(size):
            yield block
