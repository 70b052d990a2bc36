"""T5 v1.1 encoders and tokenizers as people have them on disk: transformers' folders and single ComfyUI files.

The architecture is read from the weights' shapes, so small models load through the same doors.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import TensorInfo, WeightFile, name_list, read_in_blocks
from .parts import model_part

log = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_QUERY = "encoder.block.0.layer.0.SelfAttention.q.weight"
_GATE = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
_EMBEDDING, _EMBEDDING_TWIN = "shared.weight", "encoder.embed_tokens.weight"
_BLOCK = re.compile(r"encoder\.block\.(\d+)\.")
_BALLAST = re.compile(r"^(decoder\.|lm_head\.|logit_scale$|spiece_model$)")


@dataclass(frozen=True)
class T5Layout:
    """Where each parameter of an encoder is.

    Attributes:
        path: the file or folder.
        config: keywords of transformers' ``T5Config``.
        tensors: parameter name -> tensor in the file.
        dtype: what to compute in, if nothing else is asked: the file's dtype, bf16 for fp8.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    dtype: torch.dtype

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError that names missing, unexpected and wrongly shaped tensors."""
        wrong = [
            f"{name} is {list(info.shape)}, expected {list(expected[name])}"
            for name, info in self.tensors.items()
            if name in expected and info.shape != tuple(expected[name])
        ]
        wrong += [f"{n} is {i.dtype}" for n, i in self.tensors.items() if not i.numeric]
        problems = {
            "missing": [name for name in expected if name not in self.tensors],
            "unexpected": [name for name in self.tensors if name not in expected],
            "wrong": wrong,
        }
        parts = [f"{kind}: {name_list(names)}" for kind, names in problems.items() if names]
        if parts:
            raise ValueError(
                f"{self.path} is no complete T5 v1.1 encoder; {'; '.join(parts)}. "
                "Download it again, or give T5-XXL v1.1's encoder (google/t5-v1_1-xxl, or t5xxl_*.safetensors)."
            )

    def read_into(self, name: str, target: Tensor) -> None:
        """Copy one parameter into ``target``, converted to its dtype."""
        read_in_blocks(self.tensors[name].rows(), target)


def read_layout(weights: WeightFile) -> T5Layout:
    """Find a T5 v1.1 encoder in an opened file and read its architecture from the shapes.

    Raises:
        ValueError: another kind of model.
    """
    part = model_part(weights, "text")
    weights = part.weights
    tensors, ignored = _sort_keys(weights)
    ignored += part.outside
    _refuse_other_models(weights, tensors)
    if ignored:
        log.info("%s: %d tensors are of no use to the encoder: %s", weights.path, len(ignored), name_list(ignored))
    buckets, heads = tensors[_BIAS].shape
    inner = tensors[_QUERY].shape[0]
    if not heads or inner % heads:
        raise ValueError(
            f"{weights.path}: {_QUERY} has {inner} rows, which {heads} heads (the columns of {_BIAS}) do not divide. "
            "The file is damaged: download it again."
        )
    config = {
        "vocab_size": tensors[_EMBEDDING].shape[0],
        "d_model": tensors[_EMBEDDING].shape[-1],
        "d_kv": inner // heads,
        "d_ff": tensors[_GATE].shape[0],
        "num_layers": 1 + max(int(match[1]) for name in tensors if (match := _BLOCK.match(name))),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": weights.config.get("relative_attention_max_distance", 128),
        "layer_norm_epsilon": weights.config.get("layer_norm_epsilon", 1e-6),
        "feed_forward_proj": "gated-gelu",
    }
    return T5Layout(weights.path, config, tensors, weights.compute_dtype())


def _sort_keys(weights: WeightFile) -> tuple[dict[str, TensorInfo], list[str]]:
    """Parameters, and the names that an encoder has no use for."""
    tensors = {name: info for name, info in weights.tensors.items() if not _BALLAST.match(name)}
    ignored = [name for name in weights.tensors if name not in tensors]
    twin = tensors.pop(_EMBEDDING_TWIN, None)
    if twin is not None:
        tensors.setdefault(_EMBEDDING, twin)
    return tensors, ignored


def _refuse_other_models(weights: WeightFile, tensors: Mapping[str, TensorInfo]) -> None:
    kind = weights.config.get("model_type", "t5")
    gate = weights.config.get("feed_forward_proj", "gated-gelu")
    reason = ""
    if kind != "t5":
        reason = f"its config.json says it is a {kind} model"
    elif _BIAS.replace("block.0", "block.1") in tensors:
        reason = "every block has its own position bias: it is a UMT5, as Wan uses"
    elif _GATE.replace("wi_0", "wi") in tensors or gate != "gated-gelu":
        reason = "its feed-forward is not gated: it is a T5 older than v1.1"
    elif missing := [name for name in (_EMBEDDING, _BIAS, _QUERY, _GATE) if name not in tensors]:
        reason = f"it lacks {name_list(missing)}; it has {name_list(weights.tensors)}"
    elif flat := [name for name in (_EMBEDDING, _BIAS, _QUERY, _GATE) if len(tensors[name].shape) != 2]:
        reason = f"{name_list(flat)} should have two dimensions"
    if reason:
        raise ValueError(
            f"{weights.path} is no T5 v1.1 encoder: {reason}. Give T5-XXL v1.1's encoder "
            "(a folder of google/t5-v1_1-xxl's encoder, or t5xxl_*.safetensors)."
        )


def find_tokenizer(path: Path, where: Path | None) -> Path:
    """The tokenizer's file: given (a file or its folder), or beside the encoder at ``path``. Nothing is downloaded.

    Raises:
        ValueError: none there; the message says what to get and where to put it.
    """
    if where is not None:
        folders = [where]
        if where.is_file():
            return where
    else:
        home = path if path.is_dir() else path.parent
        folders = [home / "tokenizer", home.parent / "tokenizer", home]
    for folder in folders:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                return folder / name
    target = folders[-1] if where is None else where
    raise ValueError(
        f"No tokenizer in {', '.join(str(folder) for folder in folders)}. The text encoder needs T5's vocabulary: put "
        f"spiece.model or tokenizer.json of google/t5-v1_1-xxl into {target}, or give its path as `tokenizer`."
    )


def load_tokenizer(file: Path) -> Any:
    """A transformers tokenizer from ``tokenizer.json`` or a SentencePiece model (``spiece.model``).

    The latter is read here, since transformers needs protobuf for it; the ids are the same as SentencePiece's.

    Raises:
        ValueError: a file of another kind, or of another model than T5.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    data = file.read_bytes()
    try:
        raw = Tokenizer.from_buffer(data) if data.lstrip()[:1] == b"{" else _unigram_tokenizer(data)
    except Exception as error:  # tokenizers raises bare Exceptions for bad JSON and bad models
        raise ValueError(
            f"{file} is no readable tokenizer ({error}). Give google/t5-v1_1-xxl's spiece.model or tokenizer.json."
        ) from error
    ids = [raw.token_to_id(token) for token in ("<pad>", "</s>", "<unk>")]
    if ids != [PAD_ID, EOS_ID, UNK_ID]:
        raise ValueError(
            f"{file} is not a T5 tokenizer: <pad>, </s> and <unk> have the ids {ids}, expected "
            f"{[PAD_ID, EOS_ID, UNK_ID]}. Give google/t5-v1_1-xxl's spiece.model or tokenizer.json."
        )
    raw.no_padding()
    raw.no_truncation()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _unigram_tokenizer(model: bytes) -> Any:
    """A ``tokenizers.Tokenizer`` from a SentencePiece unigram model (sentencepiece_model.proto's ModelProto)."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces: list[tuple[str, float]] = []
    character_map = b""
    for field, value in _fields(model):
        if field == 1:  # pieces: {1: piece, 2: score}
            entry = dict(_fields(value))
            pieces.append((entry[1].decode(), struct.unpack("<f", entry.get(2, bytes(4)))[0]))
        elif field == 3:  # normalizer_spec: {2: precompiled_charsmap}
            character_map = dict(_fields(value)).get(2, b"")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=UNK_ID, byte_fallback=False))
    rules: list[Any] = [normalizers.Precompiled(character_map)] if character_map else []
    rules += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(rules)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", EOS_ID)])
    return tokenizer


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protobuf message as (number, raw bytes)."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        kind = tag & 7
        start = position
        if kind == 0:
            varint()
        elif kind in (1, 2, 5):
            size = {1: 8, 5: 4}.get(kind) or varint()
            start = position
            position += size
            if position > len(message):
                raise ValueError("truncated SentencePiece model")
        else:
            raise ValueError(f"no SentencePiece model (wire type {kind})")
        yield tag >> 3, message[start:position]
