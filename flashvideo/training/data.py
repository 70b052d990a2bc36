"""The data of a training run: what a configuration says of it, the clips, and their cached latents."""

from .cache import LatentCache, latent_statistics
from .cache_building import build_cache
from .datasets import DatasetSettings, open_source
from .media import BadClipError
from .sources import Clip, ClipSource, FolderClips, ShapesClips, WebDatasetClips

__all__ = [
    "BadClipError",
    "Clip",
    "ClipSource",
    "DatasetSettings",
    "FolderClips",
    "LatentCache",
    "ShapesClips",
    "WebDatasetClips",
    "build_cache",
    "latent_statistics",
    "open_source",
]
