"""Runs that train the two stages, from configurations."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..loading.convert import parse_dtype
from ..loading.lora import save_lora
from ..loading.text import MAX_TOKENS, TextEncoder, load_text_encoder, token_ids
from ..method.degradation import STAGE1_LATENT_SCALE, STAGE2_LATENT_SCALE
from ..method.schedules import NOISE_STEPS
from ..method.student import student_of
from ..runs.fields import settings_of
from ..runs.settings import Stage2Settings
from .config import Phase, RunSettings, field_of_phases
from .data import DatasetSettings, LatentCache, build_cache, latent_statistics
from .loop import Batch, Run, runs_on_cpu
from .models import (
    LoraSettings,
    TransformerModel,
    add_trainable_lora,
    lora_pairs,
    new_transformer,
    part_of,
    save_transformer,
    stage2_from,
)
from .objectives import Stage1Objective, Stage2Objective, TextSide
from .student import StudentObjective, TeacherSettings, distilled, load_teacher
from .text import TextModel, new_text_encoder, save_text_encoder

log = logging.getLogger(__name__)

_STAGE2 = settings_of(Stage2Settings)


@dataclass(frozen=True)
class StagePhase(Phase):
    """A stretch of training on some of the datasets.

    Attributes:
        datasets: name -> weight; a batch comes from one dataset, chosen by weight. Empty: all alike.
        crop: height and width in latents, a random part of each sample; None: all of it.
        noise_steps: least and greatest strength of the latent degradation (Stage II).
    """

    datasets: dict[str, float] = field(default_factory=dict)
    crop: tuple[int, int] | None = None
    noise_steps: tuple[int, int] = (600, 900)

    def check(self, where: str) -> None:
        super().check(where)
        low, high = self.noise_steps
        for noise_step in (low, high):
            _STAGE2["noise_step"].check(noise_step, f"{where}.noise_steps: {self.noise_steps}, of which one")
        if low > high:
            raise ValueError(f"{where}.noise_steps is {self.noise_steps}; expected the least one first.")
        if self.crop is not None and any(side < 2 or side % 2 for side in self.crop):
            raise ValueError(f"{where}.crop is {self.crop}; expected even numbers of latents (16 pixels each).")
        if any(weight <= 0 for weight in self.datasets.values()):
            raise ValueError(f"{where}.datasets: weights must be positive; leave out what is not used.")


@dataclass(frozen=True)
class StageConfig:
    """A run that trains Stage I or Stage II.

    Attributes:
        vae: autoencoder that encodes the datasets.
        vae_precision: that it encodes in: ``fp32`` is exact, ``bf16`` half the time and memory (2e-3 off).
        text_encoder: T5 encoder for the captions; None if ``train_text`` makes one.
        train_text: size of a new encoder that is trained along (Stage I of small models).
        cache_text: encode captions once, with the latents; else the encoder runs along with training, which suits a
            small one that may change while the latents stay.
        start: transformer to start from: Stage I's (or any CogVideoX) for Stage I, either stage's for Stage II.
        model: size of a new transformer, where there is no ``start``.
        lora: train this instead of all weights.
        latent_scale: None: the start's own; for new models one over the latents' standard deviation.
        text_dropout: share of samples trained without a prompt.
        prompt_prefix: put before captions; None: nothing in Stage I, ``medium motion,`` in Stage II.
        time_shift: of Stage II's time, as in sampling; 1 is uniform, as in the paper.
        source: where Stage II's flow starts: ``degraded`` low resolution (the paper's), ``low`` without the latent
            degradation, or ``noise``, with the low resolution beside it as further channels (a vanilla cascade).
        dtype: of the exported weights; default: as trained.
        teacher: of a student.
        student_steps: evaluations of a student, whose end learns the teacher's; None: it learns the teacher's guided
            velocities, and takes as many steps.
    """

    kind: Literal["stage1", "stage2", "stage2_student"]
    vae: str
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    run: RunSettings = field(default_factory=RunSettings)
    datasets: dict[str, DatasetSettings] = field(default_factory=dict)
    phases: tuple[StagePhase, ...] = field_of_phases(StagePhase)
    text_encoder: str | None = None
    train_text: TextModel | None = None
    cache_text: bool = True
    start: str | None = None
    model: TransformerModel | None = None
    lora: LoraSettings | None = None
    latent_scale: float | None = None
    text_dropout: float = 0.1
    prompt_prefix: str | None = None
    time_shift: float = 1.0
    source: Literal["degraded", "low", "noise"] = "degraded"
    dtype: str | None = None
    teacher: TeacherSettings | None = None
    student_steps: int | None = None

    def check(self) -> None:
        """Raise ValueError for settings that cannot run."""
        self.run.check()
        if not self.datasets:
            raise ValueError("There are no datasets: describe at least one as [datasets.NAME].")
        for name, dataset in self.datasets.items():
            dataset.check(f"datasets.{name}")
            if self.of_stage2 and dataset.degraded_copies < 1:
                raise ValueError(f"datasets.{name}.degraded_copies is 0; Stage II needs at least one of each clip.")
        for number, phase in enumerate(self.phases):
            phase.check(f"phases[{number}]")
            self._check_crop(f"phases[{number}]", phase)
            unknown = set(phase.datasets) - set(self.datasets)
            if unknown:
                raise ValueError(
                    f"phases[{number}] names the datasets {sorted(unknown)}; known: {sorted(self.datasets)}."
                )
        if (self.start is None) == (self.model is None):
            raise ValueError("Give either `start`, a transformer to start from, or [model], the size of a new one.")
        if self.source == "noise" and (not self.of_stage2 or self.model is None):
            raise ValueError('source = "noise" is for a new Stage II ([model]): it takes twice the channels.')
        self._check_student()
        if self.lora is not None:
            self.lora.check()
            if self.start is None:
                raise ValueError("[lora] needs `start`: a LoRA of random weights is of no use.")
        if (self.text_encoder is None) == (self.train_text is None):
            raise ValueError("Give either `text_encoder` or [train_text].")
        if self.train_text is not None:
            self.train_text.check()
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(f"text_dropout is {self.text_dropout}; expected 0 to 1 (the paper has 0.1).")
        _STAGE2["shift"].check(self.time_shift, "time_shift")
        parse_dtype(self.dtype)

    def _check_crop(self, where: str, phase: StagePhase) -> None:
        for name in phase.datasets or self.datasets:
            dataset = self.datasets.get(name)
            if dataset is None or phase.crop is None:
                continue
            size = dataset.height // 8, dataset.width // 8
            if phase.crop[0] > size[0] or phase.crop[1] > size[1]:
                raise ValueError(f"{where}.crop is {phase.crop}; the latents of datasets.{name} are only {size}.")

    def _check_student(self) -> None:
        if (self.teacher is not None) != (self.kind == "stage2_student"):
            raise ValueError('[teacher] and kind = "stage2_student" belong together: give both, or neither.')
        if self.teacher is None:
            if self.student_steps is not None:
                raise ValueError("student_steps is for students. Leave it out, or give a [teacher].")
            return
        self.teacher.check()
        if self.student_steps is not None:
            _STAGE2["num_steps"].check(self.student_steps, "student_steps")
        if self.start is None:
            raise ValueError("A student begins as a Stage II transformer: give `start`, the teacher's checkpoint say.")

    @property
    def of_stage2(self) -> bool:
        """Whether it is Stage II that is trained, by itself or from a teacher."""
        return self.kind != "stage1"

    @property
    def caches_text(self) -> bool:
        """Whether prompt embeddings lie in the caches."""
        return self.cache_text and self.train_text is None

    @property
    def prefix(self) -> str:
        if self.prompt_prefix is not None:
            return self.prompt_prefix
        return str(_STAGE2["motion"].default) if self.of_stage2 else ""


class StageBatches:
    """Draws batches of one of the stages from cached latents.

    Args:
        config: of the run.
        caches: name -> cached dataset.
        latent_scale: VAE space times this is model space.
        text: encodes captions, or None if the caches hold embeddings.
    """

    def __init__(
        self, config: StageConfig, caches: Mapping[str, LatentCache], latent_scale: float, text: TextEncoder | None
    ) -> None:
        self.config, self.caches, self.latent_scale, self.text = config, caches, latent_scale, text

    def __call__(self, phase: StagePhase, generator: torch.Generator, size: int) -> Batch:
        """A batch of ``size`` samples of one dataset; all draws come from the generator."""
        weights = phase.datasets or dict.fromkeys(self.caches, 1.0)
        names = sorted(weights)
        chosen = int(torch.multinomial(torch.tensor([weights[n] for n in names]), 1, generator=generator))
        cache = self.caches[names[chosen]]
        rows = torch.randint(len(cache), (size,), generator=generator).tolist()
        samples = [cache[row] for row in rows]
        batch = self._latents(samples, phase, generator)
        without = torch.tensor([not sample["caption"] for sample in samples])
        batch["drop_text"] = without | (torch.rand(size, generator=generator) < self.config.text_dropout)
        batch.update(self._text(samples))
        return batch

    def _latents(self, samples: list[dict[str, Any]], phase: StagePhase, generator: torch.Generator) -> Batch:
        stage2 = self.config.of_stage2
        pairs = [self._sample(sample, phase, stage2, generator) for sample in samples]
        latents = torch.stack([pair[0] for pair in pairs])
        batch: Batch = {"latents": latents, "noise": torch.randn(latents.shape, generator=generator)}
        size = len(samples)
        if not stage2:
            batch["timestep"] = torch.randint(NOISE_STEPS, (size,), generator=generator)
            return batch
        time = torch.rand(size, generator=generator)
        shift = self.config.time_shift
        batch["time"] = 1 - shift * (1 - time) / (1 + (shift - 1) * (1 - time))
        low, high = phase.noise_steps
        steps = torch.randint(low, high + 1, (size,), generator=generator)
        source = self.config.source
        batch["noise_step"] = {
            "degraded": steps,
            "low": torch.full_like(steps, -1),
            "noise": torch.full_like(steps, 999),
        }[source]
        batch["low_latents"] = torch.stack([pair[1] for pair in pairs])
        return batch

    def _sample(
        self, sample: dict[str, Any], phase: StagePhase, stage2: bool, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Latents in model space, and those of a degraded copy, of the same part of a clip."""

        def draw(name: str, copy: int | None = None) -> Tensor:
            mean, std = (
                None if v is None else v if copy is None else v[copy]
                for v in (sample[f"{name}mean"], sample.get(f"{name}std"))
            )
            assert mean is not None
            drawn = mean.float()
            if std is not None:
                drawn = drawn + std.float() * torch.randn(drawn.shape, generator=generator)
            return drawn * self.latent_scale

        high = draw("")
        low = high
        if stage2:
            copies = len(sample["low_mean"])
            low = draw("low_", int(torch.randint(copies, (), generator=generator)))
        if phase.crop is not None:
            rows, columns = phase.crop
            top = 2 * int(torch.randint((high.shape[-2] - rows) // 2 + 1, (), generator=generator))
            left = 2 * int(torch.randint((high.shape[-1] - columns) // 2 + 1, (), generator=generator))
            window = (..., slice(top, top + rows), slice(left, left + columns))
            high, low = high[window], low[window]
        return high, low

    def _text(self, samples: list[dict[str, Any]]) -> Batch:
        if self.text is None:
            return {"embeds": torch.stack([sample["embeds"] for sample in samples])}
        captions = [self.config.prefix + sample["caption"] for sample in samples]
        rows = [token_ids(self.text.tokenizer, caption, self.text.max_length) for caption in captions]
        return {"input_ids": torch.cat(rows)}


def encode_datasets(config: StageConfig) -> None:
    """Make the caches that a run needs, and no run."""
    config.check()
    _caches(config, _text_encoder(config, None) if config.caches_text else None)


def stage_run(config: StageConfig, folder: Path) -> Run:
    """The run that a configuration describes; latents that are not cached yet are encoded first."""
    config.check()
    text = _text_encoder(config, folder)
    caches = _caches(config, text)
    transformer = _transformer(config, caches)
    live = None if config.caches_text else text
    side = TextSide(live.model if live is not None else None)
    objective: nn.Module
    if config.kind == "stage1":
        objective = Stage1Objective(transformer, side)
    elif config.teacher is not None:
        objective = StudentObjective(transformer, side, load_teacher(config.teacher), config.student_steps)
    else:
        objective = Stage2Objective(transformer, side, takes_low=config.source == "noise")
    if config.run.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    scale = float(transformer.config.latent_scale)

    def export(target: Path, state: Mapping[str, Tensor]) -> None:
        _export(config, transformer, text, target, state)

    return Run(
        objective=objective,
        make_batch=StageBatches(config, caches, scale, live),
        phases=config.phases,
        settings=config.run,
        folder=folder,
        export=export,
        rate_scales={} if config.train_text is None else {"text.": config.train_text.learning_rate_scale},
    )


def _text_encoder(config: StageConfig, folder: Path | None) -> TextEncoder:
    """The captions' encoder, in fp32 where it runs along with training, else as it is stored."""
    from ..loading.source import open_transformer
    from ..shapes.scenes import vocabulary

    if config.model is not None:
        length = config.model.max_text_seq_length
    else:
        assert config.start is not None
        length = int(open_transformer(config.start).config.get("max_text_seq_length", MAX_TOKENS))
    if config.train_text is not None:
        assert folder is not None
        words = [*vocabulary(), "medium", "motion"]
        return new_text_encoder(config.train_text, words, folder / "text", config.run.seed, length)
    assert config.text_encoder is not None
    encoder = load_text_encoder(config.text_encoder, dtype=None if config.caches_text else torch.float32)
    encoder.max_length = length
    encoder.model.requires_grad_(False)
    return encoder


def _caches(config: StageConfig, text: TextEncoder | None) -> dict[str, LatentCache]:
    """Encode what is not encoded yet, on this process's device; the encoders leave it afterwards."""
    from accelerate import PartialState

    from ..loading.load import load_vae

    state = PartialState(cpu=runs_on_cpu())
    vae = load_vae(config.vae, dtype=parse_dtype(config.vae_precision), device=state.device)
    cached_text = text if config.caches_text else None
    if cached_text is not None:
        cached_text.model.to(state.device)
    caches = {}
    for name, settings in config.datasets.items():
        prefix = config.prefix if config.caches_text else ""  # embeddings hold it; tokens get it in training
        prefixed = replace(settings, caption_prefix=prefix + settings.caption_prefix)
        caches[name] = build_cache(
            prefixed,
            vae,
            Path(settings.cache),
            text_encoder=cached_text,
            progress=_Told(name),
            rank=state.process_index,
            world_size=state.num_processes,
            wait=state.wait_for_everyone,
        )
    if cached_text is not None:
        cached_text.model.to("cpu")
    return caches


class _Told:
    """Tells of long encoding once in a while."""

    def __init__(self, name: str, every: int = 500) -> None:
        self.name, self.every = name, every

    def __call__(self, done: int, total: int) -> None:
        if done % self.every == 0 and 0 < done < total:
            log.info("dataset %s: %d of %d clips are encoded", self.name, done, total)


def _transformer(config: StageConfig, caches: Mapping[str, LatentCache]) -> Any:
    from ..loading.load import load_stage1, load_stage2
    from ..loading.source import open_transformer

    stage2 = config.of_stage2
    published = STAGE2_LATENT_SCALE if stage2 else STAGE1_LATENT_SCALE
    if config.model is not None:
        scale = config.latent_scale or round(1 / latent_statistics(next(iter(caches.values())))[1], 4)
        beside = config.source == "noise"
        return new_transformer(config.model, config.run.seed, stage2=stage2, latent_scale=scale, takes_low=beside)
    assert config.start is not None
    of_stage2 = open_transformer(config.start).kind == "stage2"
    if of_stage2 and not stage2:
        raise ValueError(f"{config.start} is a Stage II transformer; Stage I cannot start from it.")
    if config.teacher is not None and not of_stage2:
        raise ValueError(f"{config.start} is a Stage I transformer; a student begins as a Stage II.")
    model: Any = (load_stage2 if of_stage2 else load_stage1)(config.start)
    scale = config.latent_scale or model.config.latent_scale or published
    if stage2 and not of_stage2:
        model = stage2_from(model, scale)
    student = None if config.teacher is None else distilled(config.teacher, config.student_steps).to_table()
    model.register_to_config(latent_scale=scale, student=student)
    if config.lora is not None:
        if model.dtype == torch.float16 and runs_on_cpu():
            model.float()  # CPUs compute fp16 files in fp32; norms do not mix fp16 with what autocast makes
        add_trainable_lora(model, config.lora, config.run.seed)
    else:
        model.requires_grad_(True).float()
    return model


def _export(
    config: StageConfig, transformer: Any, text: TextEncoder, folder: Path, state: Mapping[str, Tensor]
) -> None:
    dtype = parse_dtype(config.dtype)
    weights = part_of(state, "transformer.")
    if config.lora is not None:
        student = student_of(transformer)
        pairs, path = lora_pairs(weights, config.lora), folder / f"{config.kind}_lora.safetensors"
        save_lora(pairs, path, overwrite=True, student=student)
    else:
        stage, path = "stage2" if config.of_stage2 else "stage1", folder / f"{config.kind}.safetensors"
        save_transformer(transformer, path, stage, state=weights, dtype=dtype)
    if config.train_text is not None:
        save_text_encoder(text, folder / "text", state=part_of(state, "text.encoder."), dtype=dtype)
