"""A small T5 encoder and tokenizer, which FlashVideo-Tiny trains together with Stage I."""

from __future__ import annotations

import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.files import DTYPE_NAMES
from ..checkpoints.outputs import make_folder, write_text
from ..checkpoints.t5_layout import load_tokenizer
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..loading.text import TextEncoder

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")  # T5's ids 0, 1, 2
_CONFIG_NAMES = (
    *("d_model", "d_kv", "num_heads", "d_ff", "num_layers", "vocab_size", "feed_forward_proj"),
    *("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon"),
)
_WORD_START = "\u2581"
_WORD_SCORE, _LETTER_SCORE = -1.0, -10.0  # a known word beats its letters
_SELF, _NEVER = 4.0, 8.0  # how much less attention looks at first at a token itself, and the other way


@dataclass(frozen=True)
class TextModel:
    """Size of a new encoder; names as in transformers' ``T5Config``.

    Attributes:
        learning_rate_scale: its learning rate over the run's. What the gradient does not ask for yet is soon forgotten
            at a full rate: of which motion is whose, a linear reading fell from 99 to 63 % in 2000 steps of Muon.
    """

    d_model: int = 128
    d_kv: int = 32
    num_heads: int = 4
    d_ff: int = 256
    num_layers: int = 3
    learning_rate_scale: float = 1.0

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        if not 0 < self.learning_rate_scale <= 1:
            raise ValueError(
                f"train_text.learning_rate_scale is {self.learning_rate_scale}; expected more than 0, at most 1."
            )

    @property
    def sizes(self) -> dict[str, int]:
        return {name: value for name, value in asdict(self).items() if name != "learning_rate_scale"}


def build_tokenizer(words: Iterable[str]) -> Any:
    """A lower-casing ``tokenizers.Tokenizer`` with one token a known word; other words are spelt.

    Punctuation is read as a space, accents are dropped, ``</s>`` is appended.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = [(token, 0.0) for token in SPECIAL_TOKENS]
    pieces += [(_WORD_START + word, _WORD_SCORE) for word in sorted(set(words)) if len(word) > 1]
    letters = string.ascii_lowercase + string.digits
    pieces += [(start + letter, _LETTER_SCORE) for start in ("", _WORD_START) for letter in letters]
    tokenizer = Tokenizer(models.Unigram([*pieces, (_WORD_START, _LETTER_SCORE)], unk_id=2, byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[\s\p{P}]+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=_WORD_START, prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def new_text_encoder(
    settings: TextModel, words: Iterable[str], folder: Path, seed: int, max_length: int
) -> TextEncoder:
    """An encoder with fresh weights; its tokenizer is written into ``folder``."""
    from transformers import T5Config, T5EncoderModel

    make_folder(folder)
    raw = build_tokenizer(words)
    write_text(folder / "tokenizer.json", raw.to_str(pretty=True))  # every process writes it, and reads it at once
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    config = T5Config(
        **settings.sizes,
        vocab_size=raw.get_vocab_size(),
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5EncoderModel(config)
    _look_at_neighbours(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    return TextEncoder(model, tokenizer, max_length)


@torch.no_grad()
def _look_at_neighbours(bias: Tensor) -> None:
    """Let attention begin with the nearest tokens: every other head with those before, the rest with those behind.

    T5's own start is nearly even over all tokens, from which a small encoder did not find the way to "whose colour is
    this?" in 176000 captions. The transformers see tokens without places, so nobody else could find out.

    Args:
        bias: ``[buckets, heads]``; distances of tokens before, then behind, the first eight of each exact.
    """
    reach = len(bias) // 2
    distance = torch.arange(reach, dtype=bias.dtype)
    for head in range(bias.shape[1]):
        behind, slope = head % 2, 2.0 / 4 ** (head // 2)
        bias[:, head] -= _NEVER
        bias[behind * reach : (behind + 1) * reach, head] += _NEVER - slope * distance
        bias[0, head] = -_SELF


def save_text_encoder(
    encoder: TextEncoder, folder: Path, *, state: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write transformers' layout, which our loaders read: tokenizer.json, config.json and model.safetensors.

    Args:
        encoder: with its tokenizer.
        folder: where to.
        state: the weights; default: the encoder's.
        dtype: default: the encoder's.
    """
    make_folder(folder)
    model = encoder.model
    dtype = dtype or model.dtype
    write_text(folder / "tokenizer.json", encoder.tokenizer.backend_tokenizer.to_str(pretty=True))
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": encoder.max_length},
    )
    kept = {name: getattr(model.config, name) for name in _CONFIG_NAMES}
    kind = {"architectures": ["T5EncoderModel"], "model_type": "t5", "is_encoder_decoder": False}
    _write_json(folder / "config.json", {**kind, **kept, "torch_dtype": DTYPE_NAMES[dtype]})
    tensors = {
        name: value.detach().to("cpu", dtype)
        for name, value in sorted((model.state_dict() if state is None else state).items())
        if name != "encoder.embed_tokens.weight"  # the same table as shared.weight
    }
    return write_safetensors(folder / "model.safetensors", tensor_plan(tensors), {"format": "pt"}, overwrite=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
