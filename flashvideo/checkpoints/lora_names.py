"""What the names in a LoRA file mean, whoever wrote them: which module is changed, and which part of it this is.

A name is a host's or wrapper's prefix, a module and an ending. Prefix and module are read word by word, whatever stands
between the words: ``transformer.transformer_blocks.0.attn1.to_q`` and ``lora_unet__transformer_blocks_0_attn1_to_q``
are one module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from .layouts import LAYOUTS, Piece, transformer_layout

_MOST_LAYERS, _LONGEST_NAME = 64, 200
_ENDING = re.compile(
    r"^(?P<module>.+?)(?:"
    r"(?:\.lora_|[._]lora\.|\.lora_linear_layer\.)(?P<side>[AB]|down|up)"  # PEFT, diffusers old and new, Kohya, ours
    r"(?:\.(?P<adapter>(?!(?:weight|bias|alpha)$)[^.]+))?(?:\.weight)?|"
    r"\.matrix_(?P<matrix>[AB])\.(?P<index>\d{1,3})|"  # published: SwissArmyTransformer
    r"\.(?:lora_|network_)?(?P<alpha>alpha))$"
)
_SIDES = {"A": "A", "down": "A", "B": "B", "up": "B", None: "alpha"}
_OTHER_KINDS = {
    r"\.hada_": "a LoHa",
    r"\.lokr_": "a LoKr",
    r"\.dora_scale|\.lora_magnitude_vector": "a DoRA",
    r"\.oft_|\.boft_|\.rescale$": "an OFT adapter",
    r"\.glora|\.[ab][12]\.weight$": "a GLoRA",
    r"\.lora_mid\.": "a LoCon in Tucker form",
    r"\.lora_E\b|\branknum\b": "an AdaLoRA",
    r"\.lora_embedding_[AB]": "a LoRA of embeddings",
    r"\.lora_diag\b|\.lora_monteclora|\.vera_|\.ia3_": "another method of PEFT's",
    r"\.scalar$|\.reshape_weight$": "a LoRA with a scalar or a shape of its own",
    r"\.lora_?(?:[AB]|down|up|\.down|\.up)\b.*\.bias$": "a LoRA with biases of its own",
    r"\.(?:diff(?:_b)?|set_weight|[wb]_norm)$": "an extracted difference of whole weights or biases",
}
_TEXT_ENCODER = re.compile(r"^(?:lora_te\d?_|(?:base_model\.model\.)?(?:text_encoder(?:_\d)?|text_model|te\d?)\.)")
# Words that wrappers put into a name, and words that trainers and hosts put before it.
_WRAPPERS = re.compile(
    r"(?:^|(?<=_))(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module|forward_module|base_layer|processor|module)_"
)
_HOSTS = {"base", "model", "diffusion", "transformer", "unet", "dit", "net", "pipe", "lora", "lycoris"}


@dataclass(frozen=True)
class LoraName:
    """One name taken apart.

    Attributes:
        module: what is changed, as the file writes it.
        side: ``A`` [rank, in], ``B`` [out, rank] or ``alpha``.
        adapter: PEFT's name of the adapter; "" where there is none.
        index: the partition that a published LoRA's side belongs to; ``None`` for other namings.
        bare: it is one of ``lora_A`` and ``lora_B``, which programs that fold scales away write.
    """

    module: str
    side: str
    adapter: str = ""
    index: int | None = None
    bare: bool = False


def parse_lora_name(name: str) -> LoraName | None:
    """Take a name apart; ``None`` if it belongs to no LoRA, or to one that is more than A, B and alpha."""
    match = _ENDING.match(name)
    if match is None or other_kind(name):
        return None
    if match["matrix"]:
        return LoraName(match["module"], match["matrix"], index=int(match["index"]))
    return LoraName(match["module"], _SIDES[match["side"]], match["adapter"] or "", bare=match["side"] in ("A", "B"))


def other_kind(name: str) -> str:
    """What a name's adapter is in place of a plain LoRA, in words; "" if it is none of those."""
    return next((words for pattern, words in _OTHER_KINDS.items() if re.search(pattern, name)), "")


def is_of_text_encoder(name: str) -> bool:
    return _TEXT_ENCODER.match(name) is not None


def is_whole_parameter(name: str) -> bool:
    """Whether a name is a weight or bias of the model itself, as PEFT saves those that were trained too."""
    module, _, leaf = re.sub(r"\.modules_to_save(?:\.[^.]+)?(?=\.)", "", name).rpartition(".")
    return leaf in ("weight", "bias") and resolve_module(module) is not None


def is_lora(names: Iterable[str]) -> bool:
    """Whether a file holds adapters without the weights that they change."""
    names = {str(name) for name in names}
    changed = {match["module"] for name in names if (match := _ENDING.match(name)) and not match["alpha"]}
    if changed:
        leaves = ("weight", "original.weight", "base_layer.weight")
        return not any(f"{module}.{leaf}" in names for module in changed for leaf in leaves)
    return bool(names) and all(_ENDING.match(name) or other_kind(name) for name in names)


def resolve_module(name: str) -> tuple[str, Piece] | None:
    """A module as a file writes it -> the native module that it is in, and its piece of that."""
    words, table = _WRAPPERS.sub("", _words(name[:_LONGEST_NAME])), _module_table()
    while words not in table:
        host, _, words = words.partition("_")
        if host not in _HOSTS or not words:
            return None
    return table[words]


def _words(name: str) -> str:
    return re.sub(r"[._]+", "_", name).strip("_")


@lru_cache(maxsize=1)
def _module_table() -> dict[str, tuple[str, Piece]]:
    """Every known name of a module, in words."""
    table: dict[str, tuple[str, Piece]] = {}
    for kind in LAYOUTS:
        for native, pieces in transformer_layout(kind, _MOST_LAYERS).items():
            for piece in pieces:
                # attn1.to_out is what holds to_out.0 in diffusers, and what some trainers name
                for name in (piece.module, re.sub(r"to_out\.0$", "to_out", piece.module)):
                    table[_words(name)] = (native, piece)
    for index in range(_MOST_LAYERS):  # diffusers' layers after fuse_qkv_projections()
        fused = f"transformer_blocks.{index}.attn1.to_qkv"
        table[_words(fused)] = (f"layers.{index}.qkv", Piece(fused))
    return table
