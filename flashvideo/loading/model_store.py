"""Models loaded from files when they are needed, one at a time on the device."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from ..checkpoints.files import DTYPE_NAMES, fingerprint, open_weights
from ..checkpoints.paths import expanded
from ..checkpoints.t5_layout import find_tokenizer, read_layout
from ..method.student import Student
from ..models.network import FlashVideoNetwork
from .draft import load_draft_decoder, open_draft_decoder
from .load import fitting_lora, load_stage1, load_stage2, load_vae, open_stage, open_vae
from .published import DRAFT, PUBLISHED
from .source import TransformerSource
from .text import MAX_TOKENS, load_text_encoder, meta_encoder

log = logging.getLogger(__name__)

Offload = Literal["none", "cpu", "disk"]
BUNDLED = "tiny"
ASSETS = Path(__file__).parents[1] / "assets"

# What each part may be called in a models folder, best first.
_CANDIDATES = {
    "stage1": ("stage1*.safetensors", "stage1*.pt", "stage1"),
    "stage2": ("stage2*.safetensors", "stage2*.pt", "stage2"),
    "vae": ("*vae*.safetensors", "*vae*.pt", "vae"),
    "text": ("text", "text_encoder", "t5*.safetensors", "*t5*"),
    "draft": ("taecvx*.safetensors", "taecvx*.pth"),
}


def models_folder(name: str | Path) -> Path:
    """The folder that ``--models`` names; ``tiny`` is the bundled one."""
    return ASSETS / BUNDLED if str(name) == BUNDLED else expanded(name)


@dataclass(frozen=True)
class ModelPaths:
    """Where each part of the generator lies; ``None`` for parts that a run does not need."""

    stage1: Path | None = None
    stage2: Path | None = None
    vae: Path | None = None
    text: Path | None = None
    tokenizer: Path | None = None
    draft: Path | None = None


def find_models(
    folder: str | Path | None,
    given: dict[str, str | None],
    needed: tuple[str, ...],
    optional: tuple[str, ...] = (),
) -> ModelPaths:
    """Paths of the needed parts: those given, the rest looked for in ``folder`` (``tiny``: the bundled model).
    Optional parts are left out if they are not there.

    Raises:
        ValueError: parts that are not found, with the names that were looked for.
    """
    root = None if folder is None else models_folder(folder)
    if root is not None and not root.is_dir():
        raise ValueError(
            f"There is no folder {root}. Give the folder of the models, or '{BUNDLED}' for the bundled one."
        )
    paths: dict[str, Path] = {}
    missing = []
    for name in (*needed, *optional):
        if given.get(name):
            paths[name] = expanded(str(given[name]))
            if not paths[name].exists():
                raise ValueError(f"There is no {paths[name]}, which was given for {name}.")
            continue
        matches = [path for pattern in _CANDIDATES[name] for path in sorted(root.glob(pattern))] if root else []
        if matches:
            paths[name] = matches[0]
        elif name in needed:
            missing.append(name)
    if missing:
        place = f"in {root}" if root else "since no models folder was given"
        names = "; ".join(f"{name} ({', '.join(_CANDIDATES[name])})" for name in missing)
        sources = ", ".join({**PUBLISHED, "draft": DRAFT}[name].url for name in missing)
        raise ValueError(
            f"Not found {place}: {names}. Give --models FOLDER (or the environment variable FLASHVIDEO_MODELS), or "
            f"each with --stage1, --stage2, --vae, --text-encoder, --draft-decoder. '--models {BUNDLED}' is bundled; "
            f"the published files are at {sources}"
        )
    tokenizer = given.get("tokenizer")
    if tokenizer and not expanded(tokenizer).exists():
        raise ValueError(f"There is no {tokenizer}, which was given for the tokenizer.")
    return ModelPaths(**paths, tokenizer=expanded(tokenizer) if tokenizer else None)


class ModelStore:
    """Loads parts at first use.

    Args:
        paths: of the parts.
        device: to compute on.
        dtype: of transformers and text encoder; default: the files', but fp32 for fp16 files on a CPU, which is slow
            and coarse in it.
        vae_dtype: of the VAE; default: ``dtype``.
        lora, lora_scale: merged into Stage I.
        offload: ``none`` keeps what was loaded on the device, ``cpu`` takes it off after use, ``disk`` frees it and
            loads it again when it is needed.
    """

    def __init__(
        self,
        paths: ModelPaths,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        offload: Offload = "none",
    ) -> None:
        self.paths, self.device, self.dtype, self.vae_dtype = paths, torch.device(device), dtype, vae_dtype or dtype
        self.lora, self.lora_scale, self.offload = lora, lora_scale, offload
        self._loaded: dict[str, Any] = {}
        self._sources: dict[str, TransformerSource] = {}
        self._fingerprints: dict[str, str] = {}

    def check(self) -> None:
        """Open every file's header: wrong, damaged, unsafe and ill-matched files are found before anything is loaded.

        Raises:
            ValueError: such a file.
        """
        for name in ("stage1", "stage2"):
            if getattr(self.paths, name) is not None:
                self.source(name)
        if self.paths.stage1 is not None:
            fitting_lora(self.lora, self.lora_scale, self.source("stage1"))
        if self.paths.vae is not None:
            open_vae(self.paths.vae)
        if self.paths.draft is not None:
            open_draft_decoder(self.paths.draft)
        if self.paths.text is not None:
            layout = read_layout(open_weights(self.paths.text, "text_encoder"))
            self.check_text_width(layout.config["d_model"], str(self.paths.text))

    def check_text_width(self, width: int, origin: str) -> None:
        """Raise ValueError unless both stages take prompt embeddings of this width."""
        for name, source in self._sources.items():
            expected = source.config["text_embed_dim"]
            if expected != width:
                raise ValueError(
                    f"{origin} gives prompt embeddings of width {width}, {name} ({source.weights.path}) takes "
                    f"{expected}. Give the text encoder that both stages were trained with."
                )

    def source(self, name: str) -> TransformerSource:
        """A stage's opened file; its header is read at the first call."""
        if name not in self._sources:
            self._sources[name] = open_stage(getattr(self.paths, name), name)
        return self._sources[name]

    def _text_length(self) -> int:
        """Tokens that the stages take; headers are opened here if :meth:`check` has not done it."""
        for name in ("stage1", "stage2"):
            if getattr(self.paths, name) is not None:
                return int(self.source(name).config.get("max_text_seq_length", MAX_TOKENS))
        return MAX_TOKENS

    def _load(self, name: str) -> Any:
        path = getattr(self.paths, name)
        if path is None:
            raise ValueError(f"This run has no {name} model. Give its path.")
        log.info("loading %s from %s", name, path)
        place = "cpu" if self.offload == "cpu" else self.device
        dtype = self._dtype_of(name, path)
        if name == "stage1":
            return load_stage1(path, dtype=dtype, device=place, lora=self.lora, lora_scale=self.lora_scale)
        if name == "stage2":
            return load_stage2(path, dtype=dtype, device=place)
        if name == "vae":
            return load_vae(path, dtype=dtype, device=place)
        if name == "draft":
            return load_draft_decoder(path, dtype=dtype, device=place)
        return load_text_encoder(path, tokenizer=self.paths.tokenizer, dtype=dtype, device=place)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts that there are."""
        return tuple(name for name in ("text", "stage1", "stage2", "vae") if getattr(self.paths, name) is not None)

    def meta(self, name: str) -> tuple[nn.Module, dict[str, Any]]:
        """A part as it will be loaded, on the meta device, and its configuration ({} for the VAE)."""
        path = getattr(self.paths, name)
        dtype = self._dtype_of(name, path)
        if name == "vae":
            weights, vae, _ = open_vae(path)
            for parameter in vae.parameters():
                parameter.data = parameter.data.to(dtype or weights.compute_dtype())
            return vae, {}
        if name == "text":
            layout = read_layout(open_weights(path, "text_encoder"))
            return meta_encoder(layout, dtype), layout.config
        source = self.source(name)
        dtype = dtype or source.weights.compute_dtype()
        return FlashVideoNetwork(**source.config, device="meta", dtype=dtype), source.config

    def _dtype_of(self, name: str, path: Path) -> torch.dtype | None:
        chosen = self.vae_dtype if name in ("vae", "draft") else self.dtype
        if chosen is not None or self.device.type != "cpu":
            return chosen
        stored = open_weights(path, {"vae": "vae", "text": "text_encoder"}.get(name, "transformer")).main_dtype()
        return torch.float32 if stored == torch.float16 else None

    @contextmanager
    def use(self, name: str) -> Iterator[Any]:
        """A part on its device; see :class:`flashvideo.runs.chain.Models`."""
        if name not in self._loaded:
            self._loaded[name] = self._load(name)
        held = self._loaded[name]
        module = held.model if name == "text" else held
        if self.offload == "cpu":
            module.to(self.device)
        try:
            yield (held.model, held.tokenizer, self._text_length()) if name == "text" else held
        finally:
            if self.offload == "cpu":
                module.to("cpu")
            elif self.offload == "disk":
                del self._loaded[name], held, module
            if self.offload != "none":
                release_memory(self.device)

    def latent_scale(self, name: str) -> float | None:
        """The scale that a stage's checkpoint carries, if it does."""
        return self.source(name).latent_scale

    @property
    def student(self) -> Student | None:
        """What Stage II was distilled for, if it is here and a student."""
        return None if self.paths.stage2 is None else self.source("stage2").student

    def describe(self) -> dict[str, str]:
        """Names and fingerprints of files, LoRA and dtypes, for the record in previews and videos."""
        parts = {name: getattr(self.paths, name) for name in ("stage1", "stage2", "vae", "text")}
        record = {name: self._named(path, name) for name, path in parts.items() if path is not None}
        if self.lora is not None and self.paths.stage1 is not None:
            record["lora"] = f"{self._named(expanded(self.lora), 'lora')} x {self.lora_scale:g}"
        if self.student is not None:
            record["student"] = str(self.student)
        for name, dtype in (("dtype", self.dtype), ("vae_dtype", self.vae_dtype)):
            if dtype is not None:
                record[name] = DTYPE_NAMES[dtype]
        return record

    def _named(self, path: Path, part: str) -> str:
        """A file's name with the fingerprint that its weights, and a tokenizer that goes with them, had at first."""
        if part not in self._fingerprints:
            files = open_weights(path, {"vae": "vae", "text": "text_encoder"}.get(part, "transformer")).files
            if part == "text":
                folder = path / "text_encoder" if (path / "text_encoder").is_dir() else path
                files += (find_tokenizer(folder, self.paths.tokenizer),)
            self._fingerprints[part] = fingerprint(files)
        return f"{path.name} ({self._fingerprints[part]})"


def release_memory(device: torch.device) -> None:
    """Give freed memory of a device back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
