"""The sizes of CogVideoX's VAE: how pixels and frames become latents, and back. Nothing here needs torch."""

from __future__ import annotations

LATENT_CHANNELS = 16
SPATIAL_FACTOR = 8  # pixels per latent, along each side
TEMPORAL_FACTOR = 4  # frames per latent frame, after the first
SIZE_MULTIPLE = 16  # pixels of a 2x2 patch of latents, along each side


def latent_frames(num_frames: int) -> int:
    """Latent frames of a video, ``(num_frames - 1) // 4 + 1``.

    Raises:
        ValueError: a number of frames that is not 4n + 1.
    """
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_FACTOR:
        below = max(1, (num_frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1)
        raise ValueError(
            f"{num_frames} frames: the VAE takes 1, 5, 9, ... (4n + 1) frames. "
            f"Use {below} or {below + TEMPORAL_FACTOR}."
        )
    return (num_frames - 1) // TEMPORAL_FACTOR + 1


def video_frames(num_latent_frames: int) -> int:
    """Frames of a video of one or more latent frames, ``4 (num_latent_frames - 1) + 1``."""
    return TEMPORAL_FACTOR * (num_latent_frames - 1) + 1
