"""Training a small VAE of the CogVideoX kind on drawn clips.

The paper trains no VAE; FlashVideo-Tiny needs one of its own size. Clips are coded in one temporal chunk where they
fit into one, as in :mod:`flashvideo.vae.codec`, and longer latents are decoded in the same chunks of 3, 2, 2 …, so that
the norms and the causal cache see in training what they see later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.files import DTYPE_NAMES
from ..checkpoints.metadata import CheckpointMetadata
from ..checkpoints.writing import tensor_plan, write_safetensors
from ..loading.convert import parse_dtype
from ..shapes.render import low_resolution, render_clip, render_low_clip
from ..shapes.scenes import Scene, sample_scene
from ..tensors.sizes import latent_frames
from .config import Phase, RunSettings, field_of_phases
from .loop import Batch, Run
from .models import part_of
from .whitening import measure_latents, whiten

HEIGHT, WIDTH, FRAMES = 192, 320, 17
FACTOR = 4


@dataclass(frozen=True)
class VaeModel:
    """Widths and depth of the autoencoder."""

    block_out_channels: tuple[int, ...] = (16, 32, 64, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8


@dataclass(frozen=True)
class VaePhase(Phase):
    """Crops of drawn clips.

    Attributes:
        crop: height and width in pixels.
        frames: of a crop: 1, 9 or 17, which are odd numbers of latent frames, as the decoder's chunks want them.
        small_share: part of the samples that are low-resolution clips.
        blurred_share: part that are high-resolution clips with low-resolution content, as Stage II starts from.
    """

    crop: tuple[int, int] = (64, 64)
    frames: int = 9
    small_share: float = 0.25
    blurred_share: float = 0.15

    def check(self, where: str) -> None:
        super().check(where)
        if self.frames not in (1, 9, FRAMES):
            raise ValueError(f"{where}.frames is {self.frames}; expected 1, 9 or {FRAMES}.")
        if any(side % 8 or side <= 0 for side in self.crop) or self.crop[0] > HEIGHT or self.crop[1] > WIDTH:
            raise ValueError(f"{where}.crop is {self.crop}; expected multiples of 8 up to {HEIGHT} and {WIDTH}.")


@dataclass(frozen=True)
class VaeConfig:
    """A run that trains an autoencoder.

    Attributes:
        edge_weight: of the difference between neighbouring pixels in the loss.
        kl_weight: of the divergence from a standard normal, per latent number.
        start: a VAE to start from; default: from nothing.
        dtype: of the exported weights; default: fp32.
        train: ``all``, or only the ``decoder``: then latents, and what was trained on them, stay what they are.
        whiten: number of drawn clips on which the start's latents are measured and then whitened, before training.
    """

    kind: Literal["vae"] = "vae"
    run: RunSettings = field(default_factory=RunSettings)
    model: VaeModel = field(default_factory=VaeModel)
    phases: tuple[VaePhase, ...] = field_of_phases(VaePhase)
    edge_weight: float = 0.5
    kl_weight: float = 2e-4
    start: str | None = None
    train: Literal["all", "decoder"] = "all"
    whiten: int = 0
    dtype: str | None = None

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        self.run.check()
        for number, phase in enumerate(self.phases):
            phase.check(f"phases[{number}]")
        if self.whiten < 0:
            raise ValueError(f"whiten is {self.whiten}; expected a number of clips, or 0 to leave latents as they are.")
        if self.whiten and self.start is None:
            raise ValueError("whiten needs `start`: the latents of random weights say nothing.")
        parse_dtype(self.dtype)


class VaeObjective(nn.Module):
    """Reconstruction of crops: absolute and edge error, and a little KL."""

    def __init__(self, vae: Any, edge_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.vae, self.edge_weight, self.kl_weight = vae, edge_weight, kl_weight

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``video`` ``[B, 3, F, H, W]`` in 0..1 and ``noise`` ``[B, 16, T, h, w]`` -> loss and its parts."""
        video = batch["video"] * 2 - 1
        mean, log_variance = self.vae.encoder(video)[0].float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        decoded = self._decode(mean + torch.exp(0.5 * log_variance) * batch["noise"]).float()
        error = (decoded - video).abs().mean()
        edges = sum(((decoded.diff(dim=axis) - video.diff(dim=axis)).abs().mean() for axis in (3, 4)), torch.zeros(()))
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        loss = error + self.edge_weight * edges + self.kl_weight * kl
        squared = F.mse_loss(decoded.detach(), video)
        psnr = -10 * torch.log10(squared / 4 + 1e-12)
        return loss, {"error": error, "kl": kl, "psnr": psnr, "latent_std": mean.detach().std()}

    def _decode(self, latents: Tensor) -> Tensor:
        frames, start, cache, chunks = latents.shape[2], 0, None, []
        while start < frames:
            size = 3 if start == 0 else 2
            decoded, cache = self.vae.decoder(latents[:, :, start : start + size], conv_cache=cache)
            chunks.append(decoded)
            start += size
        return torch.cat(chunks, dim=2)


def make_vae_batch(phase: VaePhase, generator: torch.Generator, size: int) -> Batch:
    """Crops that mostly show a shape, and the noise of the posterior."""
    crops = [_draw_crop(phase, generator) for _ in range(size)]
    rows, columns = phase.crop[0] // 8, phase.crop[1] // 8
    noise = torch.randn(size, 16, latent_frames(phase.frames), rows, columns, generator=generator)
    return {"video": torch.stack(crops), "noise": noise}


def whitening_clips(number: int, seed: int) -> Iterator[Tensor]:
    """Drawn clips, and after every sixteen low-resolution ones, which have as many latents, one of full size."""
    for index in range(number):
        scene = sample_scene(seed * 1_000_003 + index)
        yield render_low_clip(scene, HEIGHT // FACTOR, WIDTH // FACTOR, FRAMES)
        if index % 16 == 15:
            yield render_clip(scene, HEIGHT, WIDTH, FRAMES)


def _draw_crop(phase: VaePhase, generator: torch.Generator) -> Tensor:
    def below(limit: int) -> int:
        return int(torch.randint(max(1, limit), (), generator=generator))

    scene = sample_scene(below(2**62))
    chance = float(torch.rand((), generator=generator))
    first = below(FRAMES - phase.frames + 1)
    rows, columns = phase.crop
    centre = _place_of_interest(scene, first + phase.frames // 2, below)
    if chance < phase.small_share:
        return _small_crop(scene, rows, columns, (first, phase.frames), centre)
    top = _inside(centre[1] * HEIGHT - rows / 2, HEIGHT - rows)
    left = _inside(centre[0] * HEIGHT - columns / 2, WIDTH - columns)
    video = render_clip(scene, HEIGHT, WIDTH, FRAMES, window=(top, left, rows, columns), span=(first, phase.frames))
    if chance < phase.small_share + phase.blurred_share:
        small = low_resolution(video, FACTOR).transpose(0, 1)
        video = F.interpolate(small, size=(rows, columns), mode="bilinear", align_corners=False).transpose(0, 1)
    return video


def _small_crop(scene: Scene, rows: int, columns: int, span: tuple[int, int], centre: tuple[float, float]) -> Tensor:
    """Part of the low-resolution clip, or all of it with its edge repeated where the crop is larger."""
    height, width = HEIGHT // FACTOR, WIDTH // FACTOR
    rows_in, columns_in = min(rows, height), min(columns, width)
    top = _inside(centre[1] * height - rows_in / 2, height - rows_in)
    left = _inside(centre[0] * height - columns_in / 2, width - columns_in)
    window = (top * FACTOR, left * FACTOR, rows_in * FACTOR, columns_in * FACTOR)
    video = low_resolution(render_clip(scene, HEIGHT, WIDTH, FRAMES, window=window, span=span), FACTOR)
    return F.pad(video.transpose(0, 1), (0, columns - columns_in, 0, rows - rows_in), mode="replicate").transpose(0, 1)


def _place_of_interest(scene: Scene, frame: int, below: Any) -> tuple[float, float]:
    if below(5) == 0:
        return below(1000) / 1000 * WIDTH / HEIGHT, below(1000) / 1000
    shape = scene.shapes[below(len(scene.shapes))]
    x, y = shape.centre(frame / (FRAMES - 1))
    return x + (below(1000) / 500 - 1) * shape.radius, y + (below(1000) / 500 - 1) * shape.radius


def _inside(value: float, limit: int) -> int:
    return max(0, min(limit, round(value)))


def vae_run(config: VaeConfig, folder: Path) -> Run:
    """The run that a configuration describes."""
    config.check()
    vae = new_vae(config)
    dtype = parse_dtype(config.dtype) or torch.float32
    if config.whiten:
        whiten(vae, measure_latents(vae, whitening_clips(config.whiten, config.run.seed)))
    if config.train == "decoder":
        vae.encoder.requires_grad_(False)
    objective = VaeObjective(vae, config.edge_weight, config.kl_weight)
    return Run(
        objective=objective,
        make_batch=make_vae_batch,
        phases=config.phases,
        settings=config.run,
        folder=folder,
        export=lambda target, state: save_vae(
            vae, target / "vae.safetensors", state=part_of(state, "vae."), dtype=dtype
        ),
    )


def new_vae(config: VaeConfig) -> Any:
    """The autoencoder to train, drawn with the run's seed or loaded."""
    if config.start is not None:
        from ..loading.load import load_vae

        return load_vae(config.start, dtype=torch.float32).requires_grad_(True)
    from diffusers import AutoencoderKLCogVideoX

    with torch.random.fork_rng():
        torch.manual_seed(config.run.seed)
        vae = AutoencoderKLCogVideoX(**dataclasses.asdict(config.model), latent_channels=16, scaling_factor=1.0)
        initialise(vae)
    return vae


@torch.no_grad()
def initialise(vae: Any) -> None:
    """Fresh weights that keep the signal's size: residual branches start at zero, the posterior starts narrow."""
    for name, module in vae.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
            if name.endswith("conv2.conv"):
                nn.init.zeros_(module.weight)
            elif ".conv_y." in name:  # the factor that a latent gives to a norm of the decoder
                nn.init.zeros_(module.weight)
                nn.init.ones_(module.bias)
    to_moments, to_video = vae.encoder.conv_out.conv, vae.decoder.conv_out.conv
    log_variance = slice(vae.config.latent_channels, None)
    to_moments.weight[log_variance] *= 0.1
    to_moments.bias[log_variance] = -4
    to_video.weight *= 0.3


def save_vae(
    vae: Any, path: Path, *, state: Mapping[str, Tensor] | None = None, dtype: torch.dtype = torch.float32
) -> Path:
    """Write an autoencoder as one safetensors file that our loaders read.

    Args:
        vae: with its configuration.
        path: the ``.safetensors``.
        state: the weights; default: the autoencoder's.
        dtype: to store.
    """
    config = {"norm_num_groups": vae.config.norm_num_groups, "norm_eps": vae.config.norm_eps}
    weights = vae.state_dict() if state is None else state
    tensors = {name: value.detach().to("cpu", dtype) for name, value in sorted(weights.items())}
    header = CheckpointMetadata(kind="vae", dtype=DTYPE_NAMES[dtype], config=config).header()
    return write_safetensors(path, tensor_plan(tensors), header, overwrite=True)
