"""Prompts to embeddings: T5 v1.1 through transformers, as both stages were trained with it.

Prompts are padded or cut to 226 tokens and **no attention mask is given**: the padding is attended to. The result is
the last hidden state after the final norm. "No prompt" is all zeros, which takes no encoder.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.files import open_weights
from ..checkpoints.paths import expanded
from ..checkpoints.t5_layout import T5Layout, find_tokenizer, load_tokenizer, read_layout
from ..method.checks import check_text, shortened

log = logging.getLogger(__name__)

MAX_TOKENS = 226
SHORT_PROMPT = 30  # words; the authors' example prompts have 67 to 130, and only long ones were trained


@dataclass(frozen=True)
class PromptReport:
    """What the encoder makes of a prompt.

    Attributes:
        tokens: of the whole prompt, its end token included.
        words: separated by white space.
        cut: the text beyond the limit, which the model does not see; "" if all fits.
        unknown: tokens that the vocabulary does not have.
    """

    tokens: int
    words: int
    cut: str = ""
    unknown: int = 0


class TextEncoder:
    """A T5 encoder with its tokenizer.

    Args:
        model: transformers' ``T5EncoderModel``.
        tokenizer: a transformers tokenizer.
        max_length: tokens that a prompt is padded or cut to.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int = MAX_TOKENS) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length

    def encode(self, prompts: str | Sequence[str], *, warn: bool = True) -> Tensor:
        """``[B, max_length, D]`` in the model's dtype on the model's device; see :func:`encode_prompts`."""
        return encode_prompts(self.model, self.tokenizer, prompts, self.max_length, warn=warn)

    def check(self, prompt: str) -> PromptReport:
        """See :func:`check_prompt`."""
        return check_prompt(self.tokenizer, prompt, self.max_length)


def load_text_encoder(
    path: str | Path,
    *,
    tokenizer: Any = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> TextEncoder:
    """Load T5 v1.1's encoder, tensor by tensor; nothing is downloaded.

    Args:
        path: transformers' folder (safetensors or ``pytorch_model.bin``, shards too), a pipeline's folder with
            ``text_encoder/`` and ``tokenizer/``, or a single file: safetensors (fp32, fp16, bf16, fp8, scaled fp8),
            a pickle or GGUF.
        tokenizer: a folder, ``tokenizer.json``, ``spiece.model`` or a transformers tokenizer. By default it is looked
            for in ``tokenizer/`` inside or next to the encoder's folder, then in that folder.
        dtype: to compute in; None takes the file's, and bf16 for fp8. With fp16 the ``wo`` projections stay fp32, as
            transformers does it: T5-XXL overflows otherwise. bf16 needs no such exception.
        device: where to put it.

    Raises:
        ValueError: no such file, another model, missing or wrongly shaped tensors, no or a wrong tokenizer.
    """
    path = expanded(path)
    folder = path / "text_encoder" if (path / "text_encoder").is_dir() else path
    layout = read_layout(open_weights(folder))
    limit = MAX_TOKENS
    if tokenizer is None or isinstance(tokenizer, str | Path):
        file = find_tokenizer(folder, None if tokenizer is None else expanded(tokenizer))
        tokenizer, limit = load_tokenizer(file), token_limit(file)
    if len(tokenizer) > layout.config["vocab_size"]:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the encoder in {path} only {layout.config['vocab_size']}. "
            "Give the tokenizer that belongs to this encoder."
        )
    return TextEncoder(_build_model(layout, dtype or layout.dtype, torch.device(device)), tokenizer, limit)


def token_limit(tokenizer: Path) -> int:
    """Tokens that a prompt is padded or cut to, by the file of its tokenizer: 226, or fewer where the
    ``tokenizer_config.json`` beside it says so, as small models' does (T5's own says 512).

    Raises:
        ValueError: that file cannot be read.
    """
    file = tokenizer.parent / "tokenizer_config.json"
    if not file.is_file():
        return MAX_TOKENS
    try:
        return int(min(MAX_TOKENS, json.loads(file.read_text(encoding="utf-8")).get("model_max_length", MAX_TOKENS)))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is no tokenizer configuration ({error}). Put the file that belongs to it there."
        ) from error


def meta_encoder(layout: T5Layout, dtype: torch.dtype | None = None) -> Any:
    """The encoder on the meta device, without memory, in the precisions of its loading, checked against the file.

    Raises:
        ValueError: missing, unexpected or wrongly shaped tensors.
    """
    from transformers import T5Config, T5EncoderModel

    config = T5Config(**layout.config, dropout_rate=0.0, is_encoder_decoder=False, use_cache=False)
    with torch.device("meta"):
        model = T5EncoderModel(config)
    model.set_input_embeddings(model.shared)  # the encoder's own table is the same one
    layout.check({name: tuple(parameter.shape) for name, parameter in model.named_parameters()})
    dtype = dtype or layout.dtype
    for name, parameter in model.named_parameters():
        keep_fp32 = dtype == torch.float16 and name.endswith(".wo.weight")
        parameter.data = parameter.data.to(torch.float32 if keep_fp32 else dtype)
    return model


def _build_model(layout: T5Layout, dtype: torch.dtype, device: torch.device) -> Any:
    if dtype not in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        raise ValueError(f"dtype {dtype} cannot be computed in; expected fp32, bf16 or fp16.")
    model = meta_encoder(layout, dtype)
    for name, parameter in list(model.named_parameters()):
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        layout.read_into(name, value)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return model.eval()


def encoding_bytes(config: Mapping[str, Any], itemsize: int, tokens: int = MAX_TOKENS) -> int:
    """The most bytes that encoding a prompt holds beside the weights: scores and their softmax, or the wide state.

    Args:
        config: keywords of transformers' ``T5Config``.
        itemsize: bytes of a number.
        tokens: that a prompt is padded to.
    """
    scores = config["num_heads"] * tokens**2 * (16 + 2 * itemsize)
    return int(scores + tokens * (config["d_model"] + config["d_ff"]) * 4)


def encode_prompts(
    model: Any,
    tokenizer: Any,
    prompts: str | Sequence[str],
    max_length: int = MAX_TOKENS,
    *,
    device: str | torch.device | None = None,
    warn: bool = True,
) -> Tensor:
    """Encode prompts one at a time, so that the bytes do not depend on what else is in the batch.

    Args:
        model: transformers' ``T5EncoderModel``.
        tokenizer: a transformers tokenizer.
        prompts: one or more.
        max_length: tokens that each is padded or cut to, the end token included.
        device: to run on; None takes the model's. The result stays there.
        warn: log what :func:`check_prompt` finds.

    Returns:
        ``[B, max_length, D]`` in the model's dtype.

    Raises:
        ValueError: an empty prompt, no prompts, or a result with NaN.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("no prompts were given; expected at least one.")
    for prompt in prompts:
        check_prompt(tokenizer, prompt, max_length, warn=warn)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    rows = [encode_ids(model, token_ids(tokenizer, prompt, max_length).to(device)) for prompt in prompts]
    return torch.cat(rows)


@torch.no_grad()
def encode_ids(model: Any, input_ids: Tensor) -> Tensor:
    """``[1, L]`` token ids -> ``[1, L, D]``, the last hidden state; every position is attended to."""
    embeds: Tensor = model(input_ids=input_ids).last_hidden_state
    if not torch.isfinite(embeds).all():
        raise ValueError(f"the text encoder gave NaN or infinity in {embeds.dtype}. Load it in bf16 or fp32.")
    return embeds


def token_ids(tokenizer: Any, prompt: str, max_length: int = MAX_TOKENS) -> Tensor:
    """``[1, max_length]`` ids: the prompt, cut where needed, the end token, padding."""
    ids = [*_prompt_ids(tokenizer, prompt)[: max_length - 1], tokenizer.eos_token_id]
    return torch.tensor([ids + [tokenizer.pad_token_id] * (max_length - len(ids))])


def check_prompt(tokenizer: Any, prompt: str, max_length: int = MAX_TOKENS, *, warn: bool = True) -> PromptReport:
    """Count a prompt's tokens and words, and warn (in the log) of a cut, a short or an unreadable one.

    Raises:
        ValueError: an empty prompt.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(
            f"the prompt is {shortened(prompt)}; expected some text. Describe the video in 60 to 130 words."
        )
    check_text("the prompt", prompt)
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}; expected at least 2 tokens.")
    ids = _prompt_ids(tokenizer, prompt)
    keep = max_length - 1
    cut = _text_after(tokenizer, prompt, ids, keep) if len(ids) > keep else ""
    unknown = sum(index == tokenizer.unk_token_id for index in ids)
    report = PromptReport(tokens=len(ids) + 1, words=len(prompt.split()), cut=cut, unknown=unknown)
    if warn:
        _warn(report, max_length)
    return report


def _warn(report: PromptReport, max_length: int) -> None:
    if report.tokens > max_length:
        log.warning(
            "The prompt has %d tokens, the model reads %d. The last %d are lost: %r",
            *(report.tokens, max_length, report.tokens - max_length, report.cut),
        )
    if report.words < SHORT_PROMPT and max_length >= MAX_TOKENS:  # small models were trained on short ones
        log.warning(
            "The prompt has %d words. The model was trained on 60 to 130, and short prompts give poor results: "
            "describe the subject, its motion, the surroundings, the light and the camera.",
            report.words,
        )
    if report.unknown:
        log.warning("%d tokens of the prompt are unknown to the text encoder, which reads English.", report.unknown)


def _prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    return list(tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])


def _text_after(tokenizer: Any, prompt: str, ids: list[int], keep: int) -> str:
    """The part of ``prompt`` from its token number ``keep`` on."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return prompt[encoded["offset_mapping"][keep][0] :].strip()
    return str(tokenizer.decode(ids[keep:], skip_special_tokens=True)).strip()


def stage2_prompt(prompt: str, motion: str = "medium motion,") -> str:
    """Stage II's prompt: the authors put ``medium motion,`` in front, without a space."""
    return motion + prompt
