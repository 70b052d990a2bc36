"""Names and shapes of the published 3D VAE file, and the diffusers architecture they stand for.

Pure functions on key names and shapes: nothing here reads a file or imports torch. The published ``3d-vae.pt`` keeps
its tensors under ``state_dict`` with names such as ``decoder.up.3.block.0.norm1.norm_layer.weight``; diffusers'
``AutoencoderKLCogVideoX`` (and ComfyUI's class, whose names are the same) counts the decoder's levels from the other
end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..tensors.sizes import TEMPORAL_FACTOR

BALLAST_PREFIXES = ("loss",)
"""Keys of the published file that hold no weights of the autoencoder; the authors' loader drops them too."""

NORM_GROUPS = 32
"""Groups of every GroupNorm in the published architecture. Shapes do not tell it; a file of ours says it."""

_TORSO = ("conv_in", "conv_out", "norm_out")
_PUBLISHED_MARK = "decoder.mid.block_1.norm1.norm_layer.weight"
_DIFFUSERS_MARK = "decoder.mid_block.resnets.0.norm1.norm_layer.weight"


def is_published_vae(keys: Iterable[str]) -> bool:
    """Whether ``keys`` (without a container prefix) are those of the published ``3d-vae.pt``."""
    return _PUBLISHED_MARK in set(keys)


def is_diffusers_vae(keys: Iterable[str]) -> bool:
    """Whether ``keys`` are those of diffusers' ``AutoencoderKLCogVideoX`` (ComfyUI's VAE has the same)."""
    return _DIFFUSERS_MARK in set(keys)


def is_vae(keys: Iterable[str]) -> bool:
    """Whether ``keys`` (without a container prefix) are those of a CogVideoX VAE in either layout."""
    names = set(keys)
    return is_published_vae(names) or is_diffusers_vae(names)


def published_vae_key_map(keys: Iterable[str]) -> dict[str, str]:
    """Diffusers' name of every weight in the published layout.

    Args:
        keys: names in the file, without a container prefix.

    Returns:
        ``{diffusers key: published key}``. Keys that are no part of the autoencoder (``loss*``, anything unknown) are
        left out, so ``set(keys) - set(result.values())`` is what the caller has to explain.

    Raises:
        ValueError: the keys are not those of a published VAE, or two of them name the same weight.
    """
    names = list(keys)
    if not is_published_vae(names):
        raise ValueError(
            f"not the published 3D VAE layout: the key {_PUBLISHED_MARK!r} is missing; expected the contents of "
            "`state_dict` in the authors' 3d-vae.pt."
        )
    levels = 1 + max((int(m[1]) for m in (re.match(r"decoder\.up\.(\d+)\.", name) for name in names) if m), default=-1)
    mapped: dict[str, str] = {}
    for name in names:
        target = _diffusers_name(name, levels)
        if target is None:
            continue
        if target in mapped:
            raise ValueError(
                f"{name!r} and {mapped[target]!r} both name {target!r}; one of them does not belong there."
            )
        mapped[target] = name
    return mapped


def _diffusers_name(name: str, levels: int) -> str | None:
    """One published name in diffusers' words, None if it is no weight of the autoencoder."""
    half, _, rest = name.partition(".")
    if half not in ("encoder", "decoder"):
        return None
    if rest.split(".", 1)[0] in _TORSO:
        return name
    if match := re.fullmatch(r"mid\.block_(\d+)\.(.+)", rest):
        return f"{half}.mid_block.resnets.{int(match[1]) - 1}.{_resnet_part(match[2])}"
    side = ("down", "down_blocks") if half == "encoder" else ("up", "up_blocks")
    match = re.fullmatch(rf"{side[0]}\.(\d+)\.(block\.(\d+)|{side[0]}sample)\.(.+)", rest)
    if match is None:
        return None
    level = int(match[1]) if half == "encoder" else levels - 1 - int(match[1])
    if match[3] is None:
        return f"{half}.{side[1]}.{level}.{side[0]}samplers.0.{match[4]}"
    return f"{half}.{side[1]}.{level}.resnets.{match[3]}.{_resnet_part(match[4])}"


def _resnet_part(part: str) -> str:
    return re.sub(r"^nin_shortcut\.", "conv_shortcut.", part)


def published_vae_name(name: str, levels: int) -> str:
    """The published name of one of diffusers' names; the reverse of :func:`published_vae_key_map`.

    Args:
        levels: of the VAE, whose halves count them from opposite ends.
    """
    half, _, rest = name.partition(".")
    rest = rest.replace("conv_shortcut.", "nin_shortcut.")
    if match := re.fullmatch(r"mid_block\.resnets\.(\d+)\.(.+)", rest):
        return f"{half}.mid.block_{int(match[1]) + 1}.{match[2]}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(.+)", rest)
    if match is None:
        return name
    level = int(match[2]) if half == "encoder" else levels - 1 - int(match[2])
    part = f"{match[1]}sample" if match[3] is None else f"block.{match[3]}"
    return f"{half}.{match[1]}.{level}.{part}.{match[4]}"


def infer_vae_config(shapes: Mapping[str, Sequence[int]], norm_groups: int = NORM_GROUPS) -> dict[str, Any]:
    """Constructor keywords of ``AutoencoderKLCogVideoX`` for weights of these shapes.

    Args:
        shapes: ``{key: shape}`` in the published or in the diffusers layout, any width and depth.
        norm_groups: of every GroupNorm, where the file says it.

    Returns:
        Keywords for diffusers' class: widths, depths, channels in and out, groups and block types.

    Raises:
        ValueError: the keys are neither layout, a needed key is missing, or a width is not a multiple of the groups.
    """
    if is_published_vae(shapes):
        shapes = {new: shapes[old] for new, old in published_vae_key_map(shapes).items()}
    elif not is_diffusers_vae(shapes):
        raise ValueError(
            f"not a CogVideoX VAE: neither {_PUBLISHED_MARK!r} (published) nor {_DIFFUSERS_MARK!r} (diffusers) is "
            "among the keys; expected the authors' 3d-vae.pt or a diffusers AutoencoderKLCogVideoX."
        )
    if not isinstance(norm_groups, int) or norm_groups < 1:
        raise ValueError(
            f"the file says that its norms have {norm_groups!r} groups; expected a whole number from 1 on."
        )
    widths = tuple(
        _shape(shapes, f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight")[0] for i in range(_levels(shapes))
    )
    wrong = [width for width in widths if width % norm_groups]
    if wrong:
        raise ValueError(
            f"VAE widths {wrong} are not multiples of the {norm_groups} groups of its norms; expected a VAE of "
            "CogVideoX's architecture."
        )
    layers = len({name.split(".")[4] for name in shapes if name.startswith("encoder.down_blocks.0.resnets.")})
    return {
        "in_channels": _shape(shapes, "encoder.conv_in.conv.weight")[1],
        "out_channels": _shape(shapes, "decoder.conv_out.conv.weight")[0],
        "latent_channels": _shape(shapes, "decoder.conv_in.conv.weight")[1],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "norm_num_groups": norm_groups,
        "temporal_compression_ratio": TEMPORAL_FACTOR,
        "down_block_types": ("CogVideoXDownBlock3D",) * len(widths),
        "up_block_types": ("CogVideoXUpBlock3D",) * len(widths),
    }


def _levels(shapes: Mapping[str, Sequence[int]]) -> int:
    down = {int(m[1]) for m in (re.match(r"encoder\.down_blocks\.(\d+)\.", name) for name in shapes) if m}
    if not down:
        raise ValueError("the VAE's weights have no encoder.down_blocks; expected a whole autoencoder.")
    return max(down) + 1


def _shape(shapes: Mapping[str, Sequence[int]], key: str) -> tuple[int, ...]:
    """Shape of a convolution over time, rows and columns."""
    if key not in shapes:
        raise ValueError(
            f"the VAE's weights lack {key!r}, which tells a width. The file is incomplete: download it again."
        )
    shape = tuple(int(size) for size in shapes[key])
    if len(shape) != 5 or 0 in shape:
        raise ValueError(
            f"{key} has shape {list(shape)}; expected the 5 dimensions of a convolution, none of them 0. The file is "
            "damaged or no CogVideoX VAE: use an unchanged checkpoint."
        )
    return shape
