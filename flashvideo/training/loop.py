"""The training loop: steps over phases on whatever accelerate runs on, resumable to the same bytes.

Every batch and every random draw depends on the seed, the step and the device's number alone. So a resumed run does
what an uninterrupted one would have done, and no random state has to be kept.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.outputs import check_folder, check_room, make_folder, naming_disk_errors
from ..method.seeds import mixed_seed
from ..tensors.failures import is_too_large
from .config import Phase, RunSettings
from .ema import AveragedWeights
from .muon import Muon, matrix_ids
from .restricted import restricted_unpickling
from .run_folder import cut_log, newest_whole, put_in_place, refuse_another_run, saving, seal, step_of
from .sharding import forget_earlier_run, set_up_sharding
from .stopping import StopRequest

log = logging.getLogger(__name__)

_STATE_BYTES = {"adamw": 8, "adamw8bit": 2, "muon": 4}  # of an optimiser, a trained parameter
AVERAGES = "averaged_weights.safetensors"  # in a checkpoint

Batch = dict[str, Any]


@dataclass
class Run:
    """One training run.

    Attributes:
        objective: module that is trained; called with a batch, it gives the loss and what else to log. Only parameters
            that require gradients change.
        make_batch: ``(phase, generator, size) -> batch``; draws everything random from the generator, which is on the
            CPU.
        phases: in order.
        settings: of the optimiser.
        folder: of checkpoints, logs and results.
        export: writes the finished weights into a folder, given the objective's whole state dict: averaged weights, if
            there are any.
        rate_scales: prefix of parameters' names in the objective -> their learning rate over the run's.
        history: what was logged, in order.
    """

    objective: nn.Module
    make_batch: Callable[[Any, torch.Generator, int], Batch]
    phases: Sequence[Phase]
    settings: RunSettings
    folder: Path
    export: Callable[[Path, dict[str, Tensor]], object]
    rate_scales: Mapping[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> Phase:
        """The phase that step number ``step`` (from 0) belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]


def learning_rate_factor(step: int, total: int, settings: RunSettings) -> float:
    """Share of the learning rate at a step, from 0: a linear warm-up, then constant or a cosine down to 1 %."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def runs_on_cpu() -> bool:
    """Whether there is no accelerator. accelerate has to be told, or several CPU processes do not find each other."""
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def make_optimizer(
    module: nn.Module, settings: RunSettings, rate_scales: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """The optimiser of a module's trained parameters.

    Args:
        rate_scales: see :class:`Run`; groups of parameters carry theirs as ``scale``.

    Raises:
        ValueError: bitsandbytes is wanted and not installed.
    """
    groups = _parameter_groups(module, rate_scales or {}, by_shape=settings.optimizer == "muon")
    hyperparameters: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    if settings.optimizer == "muon":
        return Muon(groups, **hyperparameters, dtype=torch.bfloat16 if settings.precision == "bf16" else torch.float32)
    kind: Any = torch.optim.AdamW
    if settings.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit

            kind = AdamW8bit
        except ImportError as error:
            raise ValueError(
                'run.optimizer = "adamw8bit" needs bitsandbytes. Install it (pip install bitsandbytes) or use "adamw".'
            ) from error
    optimizer: torch.optim.Optimizer = kind(groups, **hyperparameters)
    return optimizer


def _parameter_groups(module: nn.Module, rate_scales: Mapping[str, float], *, by_shape: bool) -> list[dict[str, Any]]:
    """Trained parameters by their rate and, for Muon, matrices before others."""
    matrices = matrix_ids(module) if by_shape else set()
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        scale = next((factor for prefix, factor in rate_scales.items() if name.startswith(prefix)), 1.0)
        group: dict[str, Any] = {
            "params": [],
            "scale": scale,
            **({"matrices": id(parameter) in matrices} if by_shape else {}),
        }
        groups.setdefault((-scale, id(parameter) not in matrices), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def train(run: Run, *, resume: bool = False, stop_after: int | None = None) -> int:
    """Run all phases.

    Args:
        run: what to do.
        resume: go on from the newest checkpoint in the folder that is as it was written, if there is one.
        stop_after: stop (with a checkpoint) when this many steps are done in all, as if interrupted.

    Returns:
        Steps done in all.

    Raises:
        ValueError: settings that cannot run; a folder that holds another run, or damaged checkpoints only; a loss that
            is not finite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; the step was finished and a checkpoint written. A second Ctrl-C ends
            at once and writes none.
    """
    if not resume:
        refuse_another_run(run.folder)
    return _Trainer(run).train(resume, stop_after)


class _Trainer:
    def __init__(self, run: Run) -> None:
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration

        self.run, self.settings = run, run.settings
        run.settings.check()
        for number, phase in enumerate(run.phases):
            phase.check(f"phases[{number}]")
        precision = {"fp32": "no"}.get(self.settings.precision, self.settings.precision)
        check_folder(make_folder(run.folder))
        check_room(run.folder, _bytes_of_checkpoint(run), "a checkpoint")
        trackers = ["tensorboard"] if _has_tensorboard() else []
        forget_earlier_run()
        self.accelerator = Accelerator(
            cpu=runs_on_cpu(),
            mixed_precision=precision,
            log_with=trackers,
            project_config=ProjectConfiguration(
                project_dir=str(run.folder), logging_dir=str(run.folder / "tensorboard")
            ),
        )
        self.accelerator.gradient_accumulation_steps = self.settings.gradient_accumulation  # launchers have their own
        set_up_sharding(self.accelerator.state, self.settings, run.phases[0].batch_size)
        optimizer = make_optimizer(run.objective, self.settings, run.rate_scales)
        self.module, self.optimizer = self.accelerator.prepare(run.objective, optimizer)
        self.ema = AveragedWeights(self._trained(), self.settings.ema) if self.settings.ema else None
        self.saved: int | None = None  # the step of the newest checkpoint
        if trackers:
            self.accelerator.init_trackers("")

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def train(self, resume: bool, stop_after: int | None) -> int:
        launched = self.accelerator.num_processes > 1  # by a program that hands Ctrl-C on, after the terminal did
        with StopRequest(copies_within=1.0 if launched else 0.0) as stop:
            step = self._resume() if resume else 0
            total = self.run.total_steps
            end = total if stop_after is None else min(total, stop_after)
            step, interrupted = self._run_steps(step, end, stop)
            if interrupted:
                log.warning("interrupted after step %d; saving", step)
            self._save(step)
            self._export()
            self.accelerator.end_training()
        if interrupted:
            raise KeyboardInterrupt
        return step

    def _run_steps(self, step: int, end: int, stop: StopRequest) -> tuple[int, bool]:
        """Run steps up to ``end``. Returns how many are done in all, and whether a signal ended them before."""
        started, logged = time.monotonic(), step
        window: dict[str, list[float]] = {}
        with _Batches(self, step, end) as batches:
            while step < end:
                if self._all_stop(stop):
                    return step, True
                for name, value in self._step(step, batches).items():
                    window.setdefault(name, []).append(value)
                step += 1
                if step % self.settings.log_every == 0 or step == self.run.total_steps:
                    seconds = (time.monotonic() - started) / (step - logged)
                    self._log(step, window, seconds)
                    window, started, logged = {}, time.monotonic(), step
                if step % self.settings.save_every == 0 and step < end:
                    self._save(step)
        return step, False

    def _all_stop(self, stop: StopRequest) -> bool:
        """Whether any process was told to stop: all of them have to after the same step."""
        if stop.requested:
            self.accelerator.set_trigger()
        return bool(self.accelerator.check_trigger())

    def _step(self, step: int, batches: _Batches) -> dict[str, float]:
        self.module.train()
        factor = learning_rate_factor(step, self.run.total_steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor * group["scale"]
        sums: dict[str, float] = {}
        count = self.settings.gradient_accumulation
        for micro in range(count):
            batch = _to(batches.get(step, micro), self.accelerator.device)
            with self.accelerator.accumulate(self.module):  # divides by their number; gradients are shared at the last
                with self.accelerator.autocast():
                    loss, metrics = self.module(batch)
                if not torch.isfinite(loss):
                    raise ValueError(
                        f"The loss is {loss.item()} at step {step + 1}. Lower run.learning_rate, or use bf16, not "
                        "fp16; the last checkpoint is kept."
                    )
                self.accelerator.backward(loss)
            for name, value in {"loss": loss, **metrics}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / count
        norm = self.accelerator.clip_grad_norm_(self._trained(), self.settings.max_grad_norm)
        if norm is not None:
            sums["grad_norm"] = float(norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self._trained())
        return sums

    def _log(self, step: int, window: dict[str, list[float]], seconds: float) -> None:
        values = {name: sum(numbers) / len(numbers) for name, numbers in window.items()}
        entry = {"step": step, **values, "lr": self.optimizer.param_groups[0]["lr"], "seconds_per_step": seconds}
        self.run.history.append(entry)
        if not self.accelerator.is_main_process:
            return
        path = self.run.folder / "log.jsonl"
        with naming_disk_errors(path), path.open("a", encoding="utf-8") as stream:
            self.accelerator.log(values, step=step)
            stream.write(json.dumps({k: float(f"{v:.6g}") for k, v in entry.items()}) + "\n")
        text = ", ".join(f"{name} {value:.5g}" for name, value in values.items())
        log.info("step %d of %d: %s, %.2f s a step", step, self.run.total_steps, text, seconds)

    def generator(self, step: int, micro: int) -> torch.Generator:
        rank = self.accelerator.process_index
        return torch.Generator().manual_seed(mixed_seed(self.settings.seed, "training", step, micro, rank))

    def _save(self, step: int) -> None:
        """A checkpoint, complete or not there: written beside its place and renamed."""
        if step == self.saved:
            return
        root = self.run.folder / "checkpoints"
        temporary, checkpoint = root / "unfinished", root / f"step-{step:08d}"
        with saving(temporary, checkpoint):
            if self.accelerator.is_main_process and temporary.exists():
                shutil.rmtree(temporary)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(str(temporary))
            if self.ema is not None and self.accelerator.is_main_process:
                self.ema.save(temporary / AVERAGES)
            self.accelerator.wait_for_everyone()  # each process writes a part of it, the state of its random numbers
            if self.accelerator.is_main_process:
                seal(temporary)
                put_in_place(temporary, checkpoint, self.settings.keep)
            self.accelerator.wait_for_everyone()
        self.saved = step

    def _resume(self) -> int:
        checkpoint = self._agreed_checkpoint()
        if checkpoint is None:
            log.warning("%s holds no checkpoint; beginning with step 1", self.run.folder)
            return 0
        self._load(checkpoint)
        step = self.saved = step_of(checkpoint)
        if self.accelerator.is_main_process:
            cut_log(self.run.folder / "log.jsonl", step)
        log.info("resumed at step %d", step)
        return step

    def _agreed_checkpoint(self) -> Path | None:
        """What the main process, which alone reads them all, chose to go on from."""
        from accelerate.utils import broadcast_object_list

        choice: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                choice[0] = newest_whole(self.run.folder)
            except ValueError as error:
                choice[0] = error
        broadcast_object_list(choice)
        if isinstance(choice[0], ValueError):
            raise choice[0]
        return choice[0]

    def _load(self, checkpoint: Path) -> None:
        from torch.distributed.checkpoint import CheckpointException

        averages = checkpoint / AVERAGES
        try:
            with restricted_unpickling(checkpoint):
                self.accelerator.load_state(str(checkpoint))
            if self.ema is not None:
                self.ema.load(averages)
            elif averages.exists():
                raise ValueError("it has averaged weights, and run.ema is 0")
        except (Exception, CheckpointException) as error:  # what others wrote makes the readers raise anything
            if is_too_large(error):
                raise
            words = isinstance(error, (RuntimeError, KeyError, ValueError)) and str(error)
            raise ValueError(
                f"{checkpoint} cannot be resumed from: it is of another model or other settings, or holds what no run "
                f"writes ({words.splitlines()[0] if words else type(error).__name__}). Nothing in it was executed. "
                "Give the configuration that it was made with, or another folder."
            ) from error

    def _export(self) -> None:
        self.accelerator.wait_for_everyone()
        with self.ema.swapped_in(self._trained()) if self.ema is not None else contextlib.nullcontext():
            state = self.accelerator.get_state_dict(self.module)  # gathered from all devices where they share it
            if self.accelerator.is_main_process:
                self.run.export(self.run.folder, state)
        self.accelerator.wait_for_everyone()  # nobody goes on before the results are there


def _bytes_of_checkpoint(run: Run) -> int:
    """What a checkpoint takes at least: all weights, and of trained ones the optimiser's state and averages."""
    parameters = list(run.objective.parameters())
    weights = sum(p.numel() * p.element_size() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return weights + trained * (_STATE_BYTES[run.settings.optimizer] + 4 * (run.settings.ema > 0))


class _Batches:
    """Batches in order, prepared ahead by threads if there are any."""

    def __init__(self, trainer: _Trainer, first: int, end: int) -> None:
        self.trainer, self.end = trainer, end
        self.count = trainer.settings.gradient_accumulation
        self.ahead = 2 * trainer.settings.workers
        self.pool = ThreadPoolExecutor(trainer.settings.workers) if trainer.settings.workers else None
        self.waiting: dict[int, Future[Batch]] = {}

    def __enter__(self) -> _Batches:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def get(self, step: int, micro: int) -> Batch:
        number = step * self.count + micro
        if self.pool is None:
            return self._make(number)
        for later in range(number, min(number + self.ahead + 1, self.end * self.count)):
            if later not in self.waiting:
                self.waiting[later] = self.pool.submit(self._make, later)
        return self.waiting.pop(number).result()

    def _make(self, number: int) -> Batch:
        step, micro = divmod(number, self.count)
        phase = self.trainer.run.phase_at(step)
        return self.trainer.run.make_batch(phase, self.trainer.generator(step, micro), phase.batch_size)


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _has_tensorboard() -> bool:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        log.info("tensorboard is not installed: losses go to log.jsonl only")
        return False
    return True
