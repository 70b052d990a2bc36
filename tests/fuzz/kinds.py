"""What people give to the program, sound to begin with; what damages it; and the commands that it is given to."""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file

from flashvideo import load_stage1, load_stage2, load_vae
from flashvideo.cli import main
from flashvideo.loading.model_store import ModelStore
from flashvideo.loading.text import load_text_encoder
from flashvideo.training import stages
from flashvideo.training.media import Framing, read_clip
from flashvideo.video.files import read_video, write_video
from tests.conftest import TINY
from tests.unit.training.small_runs import write_config

from . import mutations

Case = Callable[[], int]
SMALL = {"preview-size": "32x32", "size": "64x64", "frames": 5, "preview-steps": 1, "steps": 1}


def options(values: dict[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def words(error: ValueError) -> int:
    """A refusal of the library, told as the command line tells it."""
    print(f"error: {error}")
    return 2


def stop_before_work() -> None:
    """All checks of a run have passed where it loads its first model."""

    def accepted(*_arguments: object, **_keywords: object) -> None:
        raise SystemExit(0)

    ModelStore._load = accepted  # type: ignore[method-assign]
    stages._text_encoder = accepted  # type: ignore[assignment]


class Kind(ABC):
    """Inputs of one kind.

    Attributes:
        name: as it is printed.
        share: cases of it, of a hundred of the largest kind.
    """

    name: str
    share: int = 100

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make sound inputs."""

    @abstractmethod
    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        """One input in a folder of its own, damaged unless ``sound``, and what is done with it; with its name."""


class Checkpoints(Kind):
    """Weights: pickles in a zip, safetensors, LoRA, a folder of a text encoder."""

    name, share = "checkpoints", 160

    def prepare(self, folder: Path) -> None:
        self.files = {"stage1.pt": (TINY / "stage1.pt").read_bytes(), "3d-vae.pt": (TINY / "3d-vae.pt").read_bytes()}
        for kind in ("stage1", "stage2"):
            main(["convert", str(TINY / f"{kind}.pt"), str(folder / f"{kind}.safetensors")])
            self.files[f"{kind}.safetensors"] = (folder / f"{kind}.safetensors").read_bytes()
        names = [f"transformer.transformer_blocks.{n}.attn1.to_q.lora_{side}.weight" for n in (0, 1) for side in "AB"]
        shapes = {"A": (4, 128), "B": (128, 4)}
        save_file({name: torch.randn(shapes[name[-8]]) for name in names}, folder / "lora.safetensors")
        self.files["lora.safetensors"] = (folder / "lora.safetensors").read_bytes()
        self.files["text"] = (TINY / "text" / "model.safetensors").read_bytes()

    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        name = draw.choice([*self.files])
        mutate = mutations.zip_mutated if name.endswith(".pt") else mutations.safetensors_mutated
        data = self.files[name] if sound else mutate(draw, self.files[name])
        path = folder / name
        if name == "text":
            shutil.copytree(TINY / "text", path)
            if not sound and draw.random() < 0.4:
                config = json.loads((path / "config.json").read_text())
                (path / "config.json").write_bytes(mutations.text_of(draw, mutations.json_mutated(draw, config)))
            else:
                (path / "model.safetensors").write_bytes(data)
        else:
            path.write_bytes(data)
        what = draw.choice(("inspect", "convert", "load"))
        return f"{what} {name}", partial(getattr(self, f"_{what}"), path)

    @staticmethod
    def _inspect(path: Path) -> int:
        code = main(["inspect", str(path)])
        return 2 if code == 1 else code  # readable, and told to be unsound

    @staticmethod
    def _convert(path: Path) -> int:
        return main(["convert", str(path), str(path.with_name("out.safetensors"))])

    @staticmethod
    def _load(path: Path) -> int:
        kinds = {"stage1": load_stage1, "stage2": load_stage2, "3d-vae": load_vae, "text": load_text_encoder}
        try:
            if path.stem == "lora":
                load_stage1(TINY / "stage1.pt", lora=path)
            else:
                kinds[path.stem](path)
        except ValueError as error:
            return words(error)
        return 0


class Previews(Kind):
    """Files of latents, refined."""

    name = "previews"

    def prepare(self, folder: Path) -> None:
        run = ["generate", "a red ball", "--models", str(TINY), "--preview-only", *options(SMALL)]
        main([*run, "-o", str(folder / "out.mp4")])
        self.sound = (folder / "out.preview.safetensors").read_bytes()

    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        path = folder / "it.preview.safetensors"
        path.write_bytes(self.sound if sound else mutations.safetensors_mutated(draw, self.sound))
        run = ["refine", str(path), "--models", str(TINY), "--size=64x64", "--steps=1", "--solver=euler"]
        return "refine", lambda: main([*run, "-o", str(folder / "out.mp4")])


class Settings(Kind):
    """``settings.json`` of a models folder, and configurations of training; the work itself is not begun."""

    name, share = "settings", 120

    def prepare(self, folder: Path) -> None:
        more = {"cfg": 4, "fps": 8, "shift": 2.5, "solver": "euler", "motion": "slow,", "noise-step": 600}
        self.sound = {**SMALL, **more, "match-colors": 4}
        self.toml = write_config(folder).read_bytes()

    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        if draw.random() < 0.5:
            path = folder / "run.toml"
            path.write_bytes(self.toml if sound else mutations.lines_mutated(draw, self.toml))
            return "train", partial(self._train, path)
        models = folder / "models"
        models.mkdir()
        for file in TINY.iterdir():
            (models / file.name).symlink_to(file)
        value = self.sound if sound else mutations.json_mutated(draw, self.sound)
        data = mutations.text_of(draw, value) if not sound else json.dumps(value).encode()
        (models / "settings.json").write_bytes(
            mutations.bytes_mutated(draw, data) if not sound and draw.random() < 0.3 else data
        )
        return "generate", partial(self._generate, models)

    @staticmethod
    def _generate(models: Path) -> int:
        stop_before_work()
        return main(["generate", "a ball", "--models", str(models), "-o", str(models.parent / "out.mp4")])

    @staticmethod
    def _train(config: Path) -> int:
        stop_before_work()
        return main(["train", str(config), "-o", str(config.with_name("run"))])


class Prompts(Kind):
    """Files of prompts, one a line, and prompts of the command line."""

    name, share = "prompts", 60
    lines = ("a red ball rolls over a table", "", "# a comment", "  spaces  ", "ein schöner Tag", "二艘の船", "x" * 900)

    def prepare(self, folder: Path) -> None:
        self.sound = "\n".join(self.lines).encode()

    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        path, data = folder / "prompts.txt", self.sound
        if not sound:
            lines = [draw.choice((*self.lines, *mutations.ODD_TEXTS)) for _ in range(draw.choice((0, 1, 5, 3000)))]
            ending = draw.choice(("\n", "\r\n", "\r", "\n\n", "\u2028", "\0"))
            data = ending.join(lines).encode(draw.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig")), "surrogatepass")
            data = mutations.bytes_mutated(draw, data) if data and draw.random() < 0.4 else data
        path.write_bytes(data)
        return "generate --prompts", partial(self._generate, path)

    @staticmethod
    def _generate(path: Path) -> int:
        stop_before_work()
        run = ["generate", "--prompts", str(path), "--models", str(TINY), *options(SMALL)]
        return main([*run, "-o", str(path.with_name("out"))])


class Videos(Kind):
    """Videos, read whole and as a training clip."""

    name = "videos"

    def prepare(self, folder: Path) -> None:
        frames = np.linspace(0, 1, 3 * 12 * 48 * 64, dtype=np.float32).reshape(1, 3, 12, 48, 64)
        write_video(folder / "it.mp4", torch.from_numpy(frames), fps=8)
        self.sound = (folder / "it.mp4").read_bytes()

    def draw(self, draw: Random, folder: Path, sound: bool) -> tuple[str, Case]:
        path = folder / "it.mp4"
        path.write_bytes(self.sound if sound else mutations.video_mutated(draw, self.sound))
        what = draw.choice(("video", "clip"))
        return f"read {what}", partial(getattr(self, f"_{what}"), path)

    @staticmethod
    def _video(path: Path) -> int:
        try:
            read_video(path)
        except ValueError as error:
            return words(error)
        return 0

    @staticmethod
    def _clip(path: Path) -> int:
        try:
            read_clip(path, Framing(32, 32, 5, fps=4, start="random"), torch.Generator().manual_seed(1))
        except ValueError as error:
            return words(error)
        return 0


KINDS: tuple[type[Kind], ...] = (Checkpoints, Previews, Settings, Prompts, Videos)
