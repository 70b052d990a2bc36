"""The library's network as ComfyUI calls it: its layers, its attention, its patches."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_prefetch
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...flashvideo.models.attention import in_pieces
from ...flashvideo.models.network import FlashVideoNetwork, Patterns, PreparedInputs
from ...flashvideo.models.windows import AttentionWindows


def host_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, *, transformer_options: dict[str, Any], text_length: int
) -> Tensor:
    """ComfyUI's attention, with the patches that other nodes set on it.

    ``q, k, v`` ``[B, heads, S, head_dim]``, text tokens first -> ``[B, S, heads * head_dim]``.
    """
    patches = transformer_options.get("patches", {})
    before, after = patches.get("attn1_patch", ()), patches.get("attn1_output_patch", ())
    options = {**transformer_options, "img_slice": [text_length, q.shape[2]]} if before or after else {}
    mask = None
    for patch in before:
        changed = patch(q, k, v, pe=None, attn_mask=mask, extra_options=options)
        q, k, v = changed.get("q", q), changed.get("k", k), changed.get("v", v)
        mask = changed.get("attn_mask", mask)
    # looked up at each call: ComfyUI chooses the backend at start
    attend = comfy.ldm.modules.attention.optimized_attention
    # Which axes of a mask follow samples and heads, only the patch that made it knows: it is not cut.
    attend_all = partial(in_pieces, attend) if mask is None else partial(attend, mask=mask)
    out = attend_all(q, k, v, heads, skip_reshape=True, transformer_options=transformer_options)
    for patch in after:
        out = patch(out, options)
    return out


ATTENTION_WINDOWS = "flashvideo_attention_windows"  # in the transformer options of a MODEL


def with_attention_windows(model: Any, windows: AttentionWindows) -> Any:
    """A clone of a FlashVideo MODEL whose attention is confined to windows, these instead of others."""
    patched = model.clone()
    patched.model_options["transformer_options"][ATTENTION_WINDOWS] = windows
    return patched


def with_windows_unless_set(model: Any, windows: AttentionWindows | None) -> Any:
    """A MODEL whose attention is confined to windows; one that has others keeps them."""
    if windows is None or model.model_options["transformer_options"].get(ATTENTION_WINDOWS):
        return model
    return with_attention_windows(model, windows)


_FOLLOWED = {"patches": {"attn1_patch", "attn1_output_patch"}, "patches_replace": {"dit"}}


def require_followed(options: dict[str, Any]) -> None:
    """Raise ValueError for what a node has set and this network has no place for: it would do nothing, silently."""
    for kind, followed in _FOLLOWED.items():
        others = [name for name, patches in options.get(kind, {}).items() if patches and name not in followed]
        if others:
            raise ValueError(
                f"A node before this one patches parts of another network ({', '.join(sorted(others))}), which "
                "FlashVideo's transformer does not have: it would change nothing. Take that node out."
            )
    for patch in options.get("patches", {}).get("attn1_patch", ()):
        parameters = inspect.signature(patch).parameters.values()
        if not any(parameter.name == "pe" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            raise ValueError(
                "A node before this one patches attention as U-Nets have it (HyperTile and TomePatchModel do), which "
                "FlashVideo's transformer does not follow. Take that node out."
            )
    if options.get(ATTENTION_WINDOWS) and any(options.get("patches", {}).get(name) for name in _FOLLOWED["patches"]):
        raise ValueError(
            "A node before this one patches attention between all tokens, and Attention Windows cuts it into windows. "
            "Take one of the two out (in Refine Video, set attention to full)."
        )
    rope = options.get("rope_options") or {}
    if any(value != (1.0 if name.startswith("scale") else 0.0) for name, value in rope.items()):
        raise ValueError(
            "Scale ROPE changes nothing here: FlashVideo's rotary positions are plain whole numbers, as it was trained "
            "with. Take that node out."
        )


class HostedNetwork(FlashVideoNetwork):
    """:class:`FlashVideoNetwork` with ComfyUI's constructor and forward.

    Parameters keep their native names, so ``diffusion_model.layers.0.qkv.weight`` is what LoRA files and loaders see.
    """

    def __init__(
        self,
        image_model: str = "",
        operations: Any = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **config: Any,
    ) -> None:
        super().__init__(**config, operations=operations, attention=host_attention, device=device, dtype=dtype)
        self.dtype = dtype  # ComfyUI asks the network for it
        self._rotary: tuple[tuple[int, ...], Tensor] | None = None

    def __getattr__(self, name: str) -> Any:
        """Nodes that patch another network's parts look for them here."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(f"FlashVideo's transformer has no {name}: the node is for another network.") from None

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        noise_step: float | None = None,
        **_: Any,
    ) -> Tensor:
        """``x`` ``[B, 16, T, h, w]`` in model space, ``timestep`` ``[B]``, ``context`` ``[B, 226, D]`` -> like x."""
        options = {} if transformer_options is None else transformer_options
        require_followed(options)
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._evaluate, self, wrappers)
        return executor.execute(x, timestep, context, noise_step, options)  # EasyCache wants the options last

    def _evaluate(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None,
        noise_step: float | None,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        self._check(x, timestep, context, noise_step, None)
        assert context is not None
        text = self.text_embed(context)
        prepared = PreparedInputs(text, self._rotary_for(x.shape[2], x.shape[3], x.shape[4]).to(x.device))
        options = {"transformer_options": transformer_options, "text_length": self.text_length}
        windows = transformer_options.get(ATTENTION_WINDOWS)
        return super().forward(
            x,
            timestep,
            None,
            noise_step=noise_step,
            prepared=prepared,
            attention_options=options,
            inplace=not torch.is_grad_enabled(),  # ComfyUI samples without gradients, and trains with them
            attention_windows=windows,
        )

    @torch.compiler.disable
    def _rotary_for(self, frames: int, height: int, width: int) -> Tensor:
        """The rotary table of a size, kept on the CPU for the next step of the run."""
        size = self.patch_size
        key = (frames, height // size, width // size)
        if self._rotary is None or self._rotary[0] != key:
            with torch.inference_mode(False):  # an inference tensor could not be used in training later
                self._rotary = (key, self.rotary(*key))
        return self._rotary[1]

    def run_layers(
        self,
        x: Tensor,
        embedding: Tensor,
        rotary: Tensor,
        attention_options: dict[str, Any],
        inplace: bool,
        patterns: Patterns,
    ) -> Tensor:
        """All layers, telling ComfyUI's patches where they are, fetching weights ahead where ComfyUI streams them."""
        options = attention_options["transformer_options"]
        replace = options.get("patches_replace", {}).get("dit", {})
        options["total_blocks"], options["block_type"] = len(self.layers), "double"
        queue = comfy.model_prefetch.make_prefetch_queue(list(self.layers), x.device, options)
        for index, layer in enumerate(self.layers):
            options["block_index"] = index
            comfy.model_prefetch.prefetch_queue_pop(queue, x.device, layer)
            if ("double_block", index) in replace:
                patch = replace[("double_block", index)]
                run = partial(layer, attention_options=attention_options, inplace=inplace, pattern=patterns[index % 2])
                x = self._replaced(run, patch, x, embedding, rotary, options)
            else:
                x = layer(x, embedding, rotary, self.text_length, attention_options, inplace, patterns[index % 2])
        if queue is not None:
            comfy.model_prefetch.prefetch_queue_pop(queue, x.device, None)
        return x

    def _replaced(
        self,
        layer: Callable[..., Tensor],
        patch: Callable[..., dict[str, Any]],
        x: Tensor,
        embedding: Tensor,
        rotary: Tensor,
        options: dict[str, Any],
    ) -> Tensor:
        """A layer through a block replacement (skip layer guidance and its like)."""
        length = self.text_length

        def original(arguments: dict[str, Any]) -> dict[str, Any]:
            joined = torch.cat((arguments["txt"], arguments["img"]), dim=1)
            out = layer(joined, arguments["vec"], arguments["pe"], length)
            return {"txt": out[:, :length], "img": out[:, length:]}

        given: dict[str, Any] = {"txt": x[:, :length], "img": x[:, length:], "vec": embedding, "pe": rotary}
        given["transformer_options"] = options
        out = patch(given, {"original_block": original})
        return torch.cat((out["txt"], out["img"]), dim=1)
