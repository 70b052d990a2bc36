"""The tensors of one model in a file, by plain names, whatever compilers, trainers and whole pipelines put around them.

A file may hold a model under any prefix (``model.diffusion_model.``, ``first_stage_model.``, ``_orig_mod.``,
``text_encoders.t5xxl.transformer.``, a pickle's ``ema.`` ...), several models, or several sets of weights of one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .files import TensorInfo, WeightFile
from .metadata import split_note
from .quantized import unquantized

log = logging.getLogger(__name__)

_WRAPPERS = {  # what DataParallel, torch.compile, FSDP and DeepSpeed put between the parts of a name
    *("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"),
}
_MARKS = {  # the end of a name that only this model has
    "transformer": r"(?:mixins\.patch_embed\.text_proj|patch_embed\.text_proj|text_embed)\.weight",
    "vae": r"decoder\.(?:mid\.block_1|mid_block\.resnets\.0)\.norm1\.norm_layer\.weight",
    "text": r"encoder\.block\.0\.layer\.0\.SelfAttention\.q\.weight",
}
_MARK = {part: re.compile(rf"(?:.+?\.)??({mark})") for part, mark in _MARKS.items()}
_COMPONENTS = (  # of pipelines and training states, beside a model that has no prefix itself
    *("first_stage_model.", "vae.", "conditioner.", "cond_stage_model.", "clip_vision_model.", "image_encoder."),
    *("text_encoder.", "text_encoder_2.", "text_encoder_3.", "text_encoders.", "tokenizer.", "scheduler."),
    *("model_ema.", "ema_model.", "ema.", "optimizer.", "lr_scheduler.", "discriminator."),
)
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|shadow)", re.IGNORECASE)


@dataclass(frozen=True)
class ModelPart:
    """One model of a file.

    Attributes:
        weights: its tensors by plain names, each weight one tensor; their ``name`` is the file's.
        prefix: of the names in the file.
        outside: the file's other names.
    """

    weights: WeightFile
    prefix: str = ""
    outside: tuple[str, ...] = ()


def parts_of(names: Iterable[str]) -> tuple[str, ...]:
    """Which of ``transformer``, ``vae`` and ``text`` names tell of."""
    names = [_plain(name) for name in names]
    return tuple(part for part, mark in _MARK.items() if any(mark.fullmatch(name) for name in names))


def model_part(weights: WeightFile, part: str) -> ModelPart:
    """The tensors of ``transformer``, ``vae`` or ``text``; all of a file in which none is recognised.

    Of several sets of weights the plain ones come before averaged ones (EMA), then the larger set, then the shorter and
    the earlier prefix; the log says which was taken.

    Raises:
        ValueError: names that are one name without their wrappers, or quantised weights that are not read.
    """
    prefixes = {_prefix(name, match[1]) for name in weights.tensors if (match := _MARK[part].fullmatch(_plain(name)))}
    members = {prefix: _members(weights.tensors, prefix, prefixes) for prefix in prefixes or {""}}
    ranked = sorted(members, key=lambda p: (bool(_AVERAGED.search(p)), -len(members[p]), len(p), p))
    taken = ranked[0]
    if len(ranked) > 1:
        log.warning(
            "%s holds %d sets of weights of this model (%s); taken: %s.",
            *(weights.path.name, len(ranked), ", ".join(_named(prefix) for prefix in ranked), _named(taken)),
        )
    inside = members[taken]
    whole = unquantized(replace(weights, tensors={name: weights.tensors[name] for name in inside}))
    tensors: dict[str, TensorInfo] = {}
    for name, info in whole.tensors.items():
        plain = _plain(name.removeprefix(taken))
        if plain in tensors:
            raise ValueError(
                f"{weights.path} holds {plain} twice, as {tensors[plain].name} and {name}. Keep one of them."
            )
        tensors[plain] = replace(info, name=info.name or name)
    entries, tensors = split_note(tensors)
    outside = tuple(name for name in weights.tensors if name not in set(inside))
    return ModelPart(replace(whole, tensors=tensors, metadata={**weights.metadata, **entries}), taken, outside)


def _named(prefix: str) -> str:
    return prefix.removesuffix(".") or "no prefix"


def _plain(name: str) -> str:
    """A name without wrappers."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefix(name: str, end: str) -> str:
    """What stands before a name's plain ``end``, wrappers included."""
    segments = name.split(".")
    start = next(i for i in range(len(segments), -1, -1) if _plain(".".join(segments[i:])) == end)
    return name[: len(name) - len(".".join(segments[start:]))]


def _members(names: Iterable[str], prefix: str, prefixes: set[str]) -> list[str]:
    others = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    others += () if prefix else _COMPONENTS
    return [name for name in names if name.startswith(prefix) and not name.startswith(others)]
