"""Every option of ``generate``, ``refine`` and ``decode`` changes what it should, and nothing else.

A run with an option is compared with the same run without it, in all that can be seen of them: the record in the video,
the arguments of the model store, the latents, the videos' frames and rates, which files there are, the exit code. An
option without a case fails the test, and so does one that has no effect any more, or one more than before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
from safetensors import safe_open

from flashvideo.cli import main
from flashvideo.video.files import read_metadata, read_video
from tests.conftest import TINY
from tests.unit.cli.watching import FILES, PROMPT, flat, options_of, watch_models
from tests.unit.conftest import SMALL, names_of_models, with_one_thread

MANY = "--prompts={files}/prompts.txt"
KEEP = ("--joint", "--keep-degraded", "--keep-latents")
BASE = {
    "generate": [*SMALL, "--size=96x64", "--seed=3", *KEEP],  # another shape than the preview's, so that resize matters
    "refine": ["--models", str(TINY), *KEEP],
    "decode": ["--models", str(TINY)],
}
# what comes out of a run, each with all that follows from it
VIDEO = {"mp4", "joint.mp4"}
REFINED = VIDEO | {"refined latents"}
DEGRADED = REFINED | {"degraded latents"}
DECODED = DEGRADED | {"preview.mp4"}
PREVIEW = DECODED | {"preview latents"}
EVERYTHING = PREVIEW | {"preview stage1_embeds", "preview stage2_embeds"}


@dataclass(frozen=True)
class Case:
    """What an option does.

    Attributes:
        given: the option with its value; ``{files}`` is the folder of the fixture, ``{out}`` that of the outputs.
        told: what else is seen then that was not before, by name; ``exit`` is the exit code.
        results: what comes out differently; None: whatever follows from ``told``.
        beside: further options, given in both runs.
        left_out: options that neither run has.
        exists: the video lies there already.
        source: which file is refined; ``video`` is the finished one.
        loads: the runs go on when the models have been found.
    """

    given: str
    told: dict[str, Any] = field(default_factory=dict)
    results: Iterable[str] | None = ()
    beside: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    exists: bool = False
    source: str = "preview"
    loads: bool = True

    @property
    def option(self) -> str:
        return self.given.partition("=")[0]


def of_stage1(given: str, **fields: Any) -> Case:
    return Case(given, {f"record.stage1.{name}": value for name, value in fields.items()}, PREVIEW)


def of_stage2(given: str, results: Iterable[str] = REFINED, **fields: Any) -> Case:
    return Case(given, {f"record.stage2.{name}": value for name, value in fields.items()}, results)


def of_video(given: str, told: dict[str, Any]) -> Case:
    return Case(given, told, {"mp4"}, left_out=KEEP, source="video", beside=("--size=32x32", "--steps=1", "--cfg=1"))


STAGE2 = [
    of_stage2("--size=64x64", DEGRADED, width=64),
    of_stage2("--noise-step=600", DEGRADED, noise_step=600),
    of_stage2("--steps=3", num_steps=3),
    of_stage2("--shift=1.5", shift=1.5),
    of_stage2("--cfg=2", guidance_scale=2.0),
    of_stage2("--guidance-every=2", guidance_every=2),
    of_stage2("--guide-student", (), guide_student=True),
    of_stage2("--solver=heun", solver="heun"),
    of_stage2("--rounding=bf16", rounding="bf16"),
    of_stage2("--resize=crop", DEGRADED, resize="crop"),
    of_stage2("--posterior-mean", DEGRADED, sample_posterior=False),
    of_stage2("--attention=32x32+1", attention="32x32+1"),
    of_stage2("--time-windows=1,0", time_windows="1,0"),
    of_stage2("--match-colors=1", VIDEO, match_colors=1.0),
    of_stage2("--keep={files}/mask.png", keep=ANY),
]
FILE = [
    Case("--output={out}/other.mp4", {"stems": {"other"}}),
    Case("--overwrite", {"exit": 0}, None, exists=True),
]
DRAFT = "--models={files}/models"  # which hold a draft decoder
OTHER_DRAFT = Case(
    "--draft-decoder={files}/other-taecvx.safetensors",
    {"store.paths.draft": "{files}/other-taecvx.safetensors"},
    beside=("--draft", DRAFT),
    left_out=KEEP,
)
KEPT = [
    Case(
        "--draft",
        {"store.paths.draft": "{files}/models/taecvx.safetensors", "record.decoder": "draft"},
        {"mp4", "draft.mp4", "refined latents"},
        beside=(DRAFT,),
        left_out=KEEP,
    ),
    OTHER_DRAFT,
    Case("--joint", {}, {"joint.mp4"}, left_out=KEEP),
    Case("--keep-degraded", {}, {"degraded latents"}, left_out=KEEP),
    Case("--keep-latents", {}, {"refined latents"}, left_out=KEEP),
]


def of_models(parts: set[str], loads: bool) -> list[Case]:
    """Options of the models, for a command that loads these parts. A file of the same weights changes no video."""

    def told(store: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
        seen = {f"store.{name}": value for name, value in store.items()}
        return seen | ({f"record.models.{name}": value for name, value in record.items()} if loads else {})

    def other(part: str) -> Case:
        name = f"other-{FILES[part]}"
        given = f"--{'text-encoder' if part == 'text' else part}={{files}}/{name}"
        return Case(given, told({f"paths.{part}": f"{{files}}/{name}"}, {part: name}) if part in parts else {})

    lora, half = "{files}/lora.safetensors", torch.bfloat16
    cases = [
        Case("--models={files}/models", told({f"paths.{n}": f"{{files}}/models/{FILES[n]}" for n in parts}, {})),
        *(other(part) for part in FILES),
        Case("--tokenizer={files}/other-text", told({"paths.tokenizer": "{files}/other-text"}, {})),
        Case(f"--lora={lora}", told({"lora": lora}, {"lora": "lora.safetensors x 1"}), PREVIEW),
        Case(
            "--lora-scale=0.5",
            told({"lora_scale": 0.5}, {"lora": "lora.safetensors x 0.5"}),
            PREVIEW,
            beside=(f"--lora={lora}",),
        ),
        Case("--device=cpu", {"device": "cpu"}),
        Case(
            "--dtype=bf16", told({"dtype": half, "vae_dtype": half}, {"dtype": "bf16", "vae_dtype": "bf16"}), EVERYTHING
        ),
        Case("--vae-dtype=bf16", told({"vae_dtype": half}, {"vae_dtype": "bf16"}), DECODED),
        Case("--offload=cpu", told({"offload": "cpu"}, {})),
    ]
    return [replace(case, loads=loads) for case in cases]


CASES = {
    "generate": [
        of_stage1("--preview-size=48x32", width=48),
        of_stage1("--frames=9", num_frames=9),
        of_stage1("--preview-steps=3", num_steps=3),
        of_stage1("--preview-cfg=3", guidance_scale=3.0),
        of_stage1("--guidance-curve=constant", guidance_curve="constant"),
        of_stage1("--preview-guidance-every=2", guidance_every=2),
        Case("--seed=4", {"record.stage1.seed": 4, "record.stage2.seed": 4}, PREVIEW),
        Case("--fps=12", {"record.fps": 12.0}, VIDEO | {"preview.mp4"}),
        *STAGE2,
        of_stage2("--motion=fast,", REFINED | {"preview stage2_embeds"}, motion="fast,"),
        Case(MANY, {"stems": ANY}),
        Case("--samples=1", {"stems": {f"{PROMPT}-0"}}, beside=(MANY,)),
        Case("--names={files}/names.txt", {"stems": {"its name-0"}}, beside=(MANY, "--samples=1")),
        Case("--num-previews=2", {}, {f"seed4.{name}" for name in EVERYTHING}),
        Case("--preview-only", {"record.content": "preview"}, DEGRADED),
        *FILE,
        *KEPT,
        *of_models(set(FILES), loads=True),
    ],
    "refine": [
        *STAGE2,
        of_stage2("--seed=5", DEGRADED, seed=5),
        Case(
            "--allow-other-noise-step",
            {"exit": 0},
            None,
            beside=("--noise-step=600",),
            left_out=("--joint",),
            source="degraded",
        ),
        of_video("--prompt=snow falls", {"record.prompt": "snow falls"}),
        of_video("--prompts={files}/other-prompts.txt", {"record.prompt": "it snows"}),
        of_video("--cuts=3", {"record.cuts": [3]}),
        Case("--ray=nowhere", {"exit": 2}, None, left_out=KEEP, source="video", beside=("--size=32x32", "--steps=1")),
        *FILE,
        *KEPT,
        *of_models({"stage2", "vae"}, loads=False),
    ],
    "decode": [
        Case("--draft", {"record.decoder": "draft", "store.paths.draft": ANY}, {"mp4"}, beside=(DRAFT,)),
        OTHER_DRAFT,
        *FILE,
        *of_models({"vae"}, loads=False),
    ],
}


@pytest.fixture(scope="module")
def seen(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """``seen(command, case, given)``: what is seen of a run; every run is made once."""
    known: dict[Any, dict[str, Any]] = {}

    def of(command: str, case: Case, given: tuple[str, ...]) -> dict[str, Any]:
        key = command, given, case.beside, case.left_out, case.exists, case.source, case.loads
        if key not in known:
            out = tmp_path_factory.mktemp("out")
            if case.exists:
                (out / "out.mp4").write_bytes(b"mine")
            words = [word for word in BASE[command] if word not in case.left_out]
            more = [word.format(files=files, out=out) for word in (*case.beside, *given)]
            subject = subject_of(command, case, given)
            known[key] = look_at([command, *subject, f"--output={out}/out.mp4", *words, *more], out, case.loads)
        return known[key]

    def subject_of(command: str, case: Case, given: tuple[str, ...]) -> list[str]:
        """What the command works on."""
        if command == "generate":
            return [] if MANY in (*case.beside, *given) else [PROMPT]
        if case.source == "video":
            return [str(made / "out.mp4")]
        return [str(made / f"out.{'refined' if command == 'decode' else case.source}.safetensors")]

    made = tmp_path_factory.mktemp("made")
    look_at(["generate", PROMPT, f"--output={made}/out.mp4", *BASE["generate"]], made, True)
    return of


def look_at(arguments: list[str], out: Path, loads: bool) -> dict[str, Any]:
    """Run a command, or what it does before it loads models, and give all that can be seen of it."""
    found: dict[str, Any] = {}

    with pytest.MonkeyPatch.context() as patch, with_one_thread():
        watch_models(patch, found, loads)
        found["exit"] = main(arguments)
    paths = {path.name.partition(".")[2]: path for path in out.rglob("*.*") if path.is_file()}
    found["stems"] = {path.name.partition(".")[0] for path in paths.values()}
    for name, path in paths.items():
        found |= look_into(path, name)
    if found["exit"] == 0:
        shown = next(paths[name] for name in ("mp4", "draft.mp4", "preview.mp4") if name in paths)
        record = json.loads(read_metadata(shown)["flashvideo"])
        found |= flat(record | {"models": names_of_models(record["models"])}, "record.")
    return found


def look_into(path: Path, name: str) -> dict[str, Any]:
    """Frames and rate of a video; latents of a file of latents, with a preview's embeddings."""
    if path.suffix == ".mp4":
        return {} if path.read_bytes() == b"mine" else {name: (digest(read_video(path)[0]), read_video(path)[1])}
    with safe_open(path, framework="pt") as handle:
        kept = [key for key in handle.keys() if key == "latents" or name.endswith("preview.safetensors")]  # noqa: SIM118
        return {f"{name.removesuffix('.safetensors')} {key}": digest(handle.get_tensor(key)) for key in kept}


def digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize(
    ("command", "case"),
    [pytest.param(command, case, id=f"{command} {case.given}") for command, cases in CASES.items() for case in cases],
)
def test_an_option_changes_what_it_should_and_nothing_else(command, case, seen, files):
    before, after = seen(command, case, ()), seen(command, case, (case.given,))
    changed = {name for name in before.keys() | after.keys() if before.get(name, name) != after.get(name, name)}
    told = {name: value.format(files=files) if isinstance(value, str) else value for name, value in case.told.items()}
    assert {name: after.get(name) for name in told} == told
    assert told.keys() <= changed
    if case.results is not None:
        assert changed - told.keys() == set(case.results) & (before.keys() | after.keys())


@pytest.mark.parametrize("command", CASES)
def test_every_option_has_a_case(command):
    assert options_of(command) == sorted(case.option for case in CASES[command])
