"""A VAE's layers in the order they run, read from any module tree with CogVideoX's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

Module = Any  # layers are known by their attribute names, not by their class


@cache
def _unpadded_class(kind: Any) -> Any:
    owner = next((base for base in kind.__mro__ if "forward" in vars(base)), kind)
    of_diffusers = issubclass(kind, nn.Conv3d) and owner.__module__.partition(".")[0] == "diffusers"
    # CogVideoXSafeConv3d cuts large inputs along time, down to fewer frames than its kernel has.
    forward = nn.Conv3d.forward if of_diffusers else kind.forward
    changed = {
        "padding": property(lambda conv: (0,) * len(conv.kernel_size)),
        # A property goes before what accelerate writes into the module's own dictionary, which is bound to the module
        # with its padding.
        "forward": property(lambda conv: partial(_forward_with_weights, conv, forward)),
    }
    return type(f"Unpadded{kind.__name__}", (kind,), changed)


def _forward_with_weights(conv: Module, forward: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with weights_in_place(conv):
        return forward(conv, *inputs)


@contextmanager
def weights_in_place(module: Module) -> Iterator[None]:
    """Where accelerate keeps a module's weights elsewhere and brings them for every call, they are there meanwhile."""
    hook = offloading_hook(module)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, ())


def offloading_hook(module: Module) -> Any:
    """accelerate's hook on a module; None where there is none."""
    return vars(module).get("_hf_hook")


def unpadded(conv: Module) -> Module:
    """A convolution like ``conv`` that pads nothing.

    It is the same module in all else, now and later: weights, hooks, and whatever streams, casts or patches them. So
    others may use ``conv`` meanwhile. Of diffusers' 3D convolution only what torch has is used: large inputs are cut
    by :mod:`.layers`.
    """
    kind: Any = type(conv)
    twin: Module = object.__new__(_unpadded_class(kind))
    object.__setattr__(twin, "__dict__", conv.__dict__)
    return twin


@dataclass(frozen=True)
class Norm:
    """A GroupNorm and, in the decoder, the two 1x1x1 convolutions of the latents that scale and shift its output."""

    group: Module
    scale: Module | None = None
    shift: Module | None = None


@dataclass(frozen=True)
class ConvLayer:
    """Norm, SiLU and a causal 3x3x3 convolution, then the residual block's sum if it ends one.

    ``grid`` is the number of pixels per latent, along each side, of what the layer reads and writes.
    """

    name: str
    conv: Module
    grid: int
    norm: Norm | None = None
    starts_block: bool = False
    ends_block: bool = False
    shortcut: Module | None = None
    measured: bool = True  # a norm follows, so the output's statistics are taken

    @property
    def channels(self) -> tuple[int, int]:
        return self.conv.in_channels, self.conv.out_channels


@dataclass(frozen=True)
class ResampleLayer:
    """Two times more or fewer rows and columns, perhaps frames, and a 3x3 convolution frame by frame.

    ``grid`` is the number of pixels per latent, along each side, of what the layer reads.
    """

    name: str
    conv: Module
    grid: int
    up: bool
    time: bool

    @property
    def channels(self) -> tuple[int, int]:
        return self.conv.in_channels, self.conv.out_channels


Layer = ConvLayer | ResampleLayer


def decoder_layers(vae: nn.Module) -> tuple[Layer, ...]:
    """The decoder of ``vae``, latents in, frames out."""
    decoder = _child(vae, "decoder")
    layers: list[Layer] = [ConvLayer("conv_in", _conv(decoder, "conv_in.conv"), 1)]
    layers += _blocks("mid_block", _child(decoder, "mid_block.resnets"), 1)
    grid = 1
    for index, block in enumerate(_child(decoder, "up_blocks")):
        layers += _blocks(f"up_blocks.{index}", _child(block, "resnets"), grid)
        for upsampler in getattr(block, "upsamplers", None) or ():
            layers.append(_resample(f"up_blocks.{index}.upsampler", upsampler, grid, up=True))
            grid *= 2
    return (*layers, _last(decoder, grid))


def encoder_layers(vae: nn.Module) -> tuple[Layer, ...]:
    """The encoder of ``vae``, frames in, moments out."""
    encoder = _child(vae, "encoder")
    blocks = list(_child(encoder, "down_blocks"))
    grid = 2 ** sum(1 for block in blocks if getattr(block, "downsamplers", None))
    layers: list[Layer] = [ConvLayer("conv_in", _conv(encoder, "conv_in.conv"), grid)]
    for index, block in enumerate(blocks):
        layers += _blocks(f"down_blocks.{index}", _child(block, "resnets"), grid)
        for downsampler in getattr(block, "downsamplers", None) or ():
            layers.append(_resample(f"down_blocks.{index}.downsampler", downsampler, grid, up=False))
            grid //= 2
    layers += _blocks("mid_block", _child(encoder, "mid_block.resnets"), grid)
    return (*layers, _last(encoder, grid))


def _blocks(name: str, resnets: Iterable[Module], grid: int) -> list[Layer]:
    layers: list[Layer] = []
    for index, resnet in enumerate(resnets):
        activation = getattr(resnet, "nonlinearity", None)
        if not isinstance(activation, nn.SiLU | None):
            raise ValueError(
                f"the VAE's {name}.resnets.{index} uses {type(activation).__name__}; CogVideoX's VAE uses SiLU, "
                "and only that is supported. Load the published VAE."
            )
        own = f"{name}.{index}"
        norm1, norm2 = _norm(_child(resnet, "norm1")), _norm(_child(resnet, "norm2"))
        shortcut = _conv(resnet, "conv_shortcut") if getattr(resnet, "conv_shortcut", None) is not None else None
        conv1, conv2 = _conv(resnet, "conv1.conv"), _conv(resnet, "conv2.conv")
        layers.append(ConvLayer(f"{own}.conv1", conv1, grid, norm1, starts_block=True))
        layers.append(ConvLayer(f"{own}.conv2", conv2, grid, norm2, ends_block=True, shortcut=shortcut))
    return layers


def _last(half: Module, grid: int) -> ConvLayer:
    conv, norm = _conv(half, "conv_out.conv"), _norm(_child(half, "norm_out"))
    return ConvLayer("conv_out", conv, grid, norm, measured=False)


def _resample(name: str, module: Module, grid: int, up: bool) -> ResampleLayer:
    return ResampleLayer(name, _conv(module, "conv"), grid, up, bool(_child(module, "compress_time")))


def _norm(module: Module) -> Norm:
    if not hasattr(module, "norm_layer"):
        return Norm(module)
    return Norm(module.norm_layer, _conv(module, "conv_y.conv"), _conv(module, "conv_b.conv"))


def _conv(module: object, path: str) -> Module:
    return unpadded(_child(module, path))


def _child(module: object, path: str) -> Any:
    child: object = module
    for name in path.split("."):
        if not hasattr(child, name):
            raise ValueError(
                f"the VAE's {type(module).__name__} has no {path!r}: expected the module names of "
                "AutoencoderKLCogVideoX, from diffusers or ComfyUI."
            )
        child = getattr(child, name)
    return child
