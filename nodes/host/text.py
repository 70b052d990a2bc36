"""T5 v1.1 encoders of any size as a CLIP of ComfyUI, padded to 226 tokens as both stages were trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.utils
import torch
from comfy import sd1_clip
from comfy.text_encoders.cogvideo import CogVideoXTokenizer, cogvideo_te
from comfy.text_encoders.t5 import T5
from torch import Tensor

from ...flashvideo.checkpoints.files import WeightFile, open_weights
from ...flashvideo.checkpoints.t5_layout import T5Layout, find_tokenizer, load_tokenizer, read_layout
from ...flashvideo.loading.text import MAX_TOKENS, token_limit
from .streaming import streamed_state

_COMFYUI_T5_VOCABULARY = 32128  # the vocabulary that ComfyUI brings itself; T5 v1.1's models all have it
_UNLIMITED = 99999999


class _FileTokenizer:
    """The interface by which ComfyUI makes a tokenizer, on the library's reader."""

    @staticmethod
    def from_pretrained(path: str, **_: Any) -> Any:
        return load_tokenizer(Path(path))


def text_length(clip: Any) -> int:
    """Tokens that a prompt is padded or cut to: 226, or what the tokenizer of a small model says."""
    tokenizer = getattr(clip, "tokenizer", None)
    return int(getattr(tokenizer, "flashvideo_text_length", MAX_TOKENS))


def _tokenizer_class(file: Path, width: int) -> type:
    """ComfyUI's tokenizer for a T5 with a vocabulary of its own."""
    length = token_limit(file)

    class T5FileTokenizer(sd1_clip.SDTokenizer):
        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(
                str(file),
                pad_with_end=False,
                embedding_directory=embedding_directory,
                embedding_size=width,
                embedding_key="t5xxl",
                tokenizer_class=_FileTokenizer,
                has_start_token=False,
                end_token=1,
                pad_to_max_length=False,
                max_length=_UNLIMITED,
                min_length=length,
                tokenizer_data=tokenizer_data or {},
            )

    class T5FileTokenizerOuter(sd1_clip.SD1Tokenizer):
        flashvideo_text_length = length

        def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
            super().__init__(embedding_directory, tokenizer_data or {}, clip_name="t5xxl", tokenizer=T5FileTokenizer)

    return T5FileTokenizerOuter


def _tokenizer_for(layout: T5Layout, path: Path) -> type:
    try:
        return _tokenizer_class(find_tokenizer(path, None), layout.config["d_model"])
    except ValueError:
        if layout.config["vocab_size"] != _COMFYUI_T5_VOCABULARY:
            raise
        return CogVideoXTokenizer


def _model_config(layout: T5Layout) -> dict[str, Any]:
    """The architecture in ComfyUI's words."""
    taken = {key: layout.config[key] for key in ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size")}
    return {**taken, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5"}


def _state_dict(weights: WeightFile, layout: T5Layout) -> tuple[dict[str, Tensor], bool]:
    """The encoder's tensors by ComfyUI's names, and whether they are quantised."""
    streamed = streamed_state(weights, layout.tensors)
    if streamed is not None:
        return streamed[0], streamed[1] is not None
    kept = {name: layout.dtype if info.quantized else info.dtype for name, info in layout.tensors.items()}
    return {name: info.load(kept[name]) for name, info in layout.tensors.items()}, False


def load_text_encoder(path: str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """A T5 file (fp32, bf16, fp16, fp8, scaled fp8) with its tokenizer as a CLIP.

    The tokenizer lies beside the file (``tokenizer.json`` or ``spiece.model``); without one, ComfyUI's own serves the
    models of T5's full vocabulary.

    Raises:
        ValueError: another kind of model, missing tensors, no tokenizer.
    """
    file = Path(path)
    weights = open_weights(file)
    layout = read_layout(weights)
    buckets = layout.config["relative_attention_num_buckets"]
    if buckets != 32:
        raise ValueError(f"{path} has {buckets} position buckets; ComfyUI's T5 has 32. Use a T5 v1.1 encoder.")
    config = _model_config(layout)
    layout.check(_expected_shapes(config))
    state, quantized = _state_dict(weights, layout)
    target = comfy.supported_models_base.ClipTarget(_tokenizer_for(layout, file), _encoder_class(layout, quantized))
    clip = comfy.sd.CLIP(
        target,
        parameters=comfy.utils.calculate_parameters(state),
        state_dict=[state],
        model_options={"t5xxl_model_config": config},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (_load_patcher, (path,))
    return clip


def _encoder_class(layout: T5Layout, quantized: bool) -> type:
    stored = next(info.dtype for name, info in layout.tensors.items() if name.endswith("final_layer_norm.weight"))
    return cogvideo_te(dtype_t5=stored, t5_quantization_metadata={"mixed_ops": True} if quantized else None)


def _expected_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Parameters of ComfyUI's T5 of this architecture, without memory for them."""
    encoder = T5(config, torch.float32, torch.device("meta"), comfy.ops.manual_cast)
    return {name: tuple(parameter.shape) for name, parameter in encoder.named_parameters()}


def _load_patcher(path: str, disable_dynamic: bool = False) -> Any:
    return load_text_encoder(path, disable_dynamic).patcher
