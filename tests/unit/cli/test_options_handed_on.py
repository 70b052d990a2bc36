"""Every option of these commands changes exactly its part of what is handed on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flashvideo.cli import checkpoints, main, options, plan, report, train
from flashvideo.report.kernels.rates import CARDS
from flashvideo.report.planning import PlannedStep, RunPlan
from flashvideo.training import loop
from flashvideo.vae.tiling.memory import MARGIN
from tests.conftest import TINY
from tests.unit.cli.watching import FILES, flat, options_of, watch_models

STAGE1, STAGE2, BF16 = "settings.stage1.", "settings.stage2.", torch.bfloat16
EXTRA = "--extra=other={files}/other-stage2.pt"
BASE = {
    "convert": [str(TINY / "stage2.pt"), "{out}/a.safetensors"],
    "inspect": [str(TINY / "stage2.pt")],
    "plan": ["--memory=24", "--host-memory=64"],
    "train": ["{out}/run.toml", "--output={out}/run"],
    "report": ["--models", str(TINY), "--output={out}/report"],
}
CASES: dict[str, dict[str, dict[str, Any]]] = {  # command -> the option as it is given -> what changes
    "convert": {
        "--kind=stage2": {"kind": "stage2"},
        "--dtype=fp16": {"dtype": "fp16"},
        "--overwrite": {"overwrite": True},
    },
    "inspect": {"--quick": {"values": False}, "--json": {"json": True}},
    "plan": {
        "--card=H100": {
            "device": None,
            "target.name": "H100",
            "target.device": "cuda:0",
            "target.rates": asdict(CARDS["H100"]),
        },
        "--device=cpu": {"device": "cpu"},
        "--rates={out}/rates.json": {"target.rates": CARDS["H200"].to_dict()},
        "--memory=12": {"target.free": 12 * 10**9 - MARGIN},
        "--host-memory=12": {"target.host": 12 * 10**9},
        "--json": {"json": True},
        "--preview-size=160x96": {STAGE1 + "height": 96, STAGE1 + "width": 160},
        "--frames=21": {STAGE1 + "num_frames": 21},
        "--preview-steps=9": {STAGE1 + "num_steps": 9},
        "--preview-cfg=9": {STAGE1 + "guidance_scale": 9.0},
        "--preview-guidance-every=9": {STAGE1 + "guidance_every": 9},
        "--size=160x96": {STAGE2 + "height": 96, STAGE2 + "width": 160},
        "--steps=9": {STAGE2 + "num_steps": 9},
        "--cfg=9": {STAGE2 + "guidance_scale": 9.0},
        "--guidance-every=9": {STAGE2 + "guidance_every": 9},
        "--solver=heun": {STAGE2 + "solver": "heun"},
        "--attention=full": {STAGE2 + "attention": "full"},
        "--time-windows=5,1": {STAGE2 + "time_windows": "5,1"},
    },
    "train": {
        "--output={out}/other": {"folder": "{out}/other"},
        "--resume": {"resume": True},
        "--stop-after=7": {"stop_after": 7},
        "--encode-only": {"encoded": "{out}/run.toml", "folder": None, "resume": None},
    },
    "report": {
        "--output={out}/other": {"folder": "{out}/other"},
        "--sections=judge,fidelity": {"sections": ("judge", "fidelity")},
        "--again": {"again": True},
        "--check": {"exit": 1},
        EXTRA: {"extras": [("other", "stage2")]},
        "--clips=9": {"settings.clips": 9},
        "--ablation-clips=9": {"settings.ablation_clips": 9},
        "--ablation-frames=9": {"settings.ablation_frames": 9},
        "--seed=9": {"settings.seed": 9},
        "--low-size=160x96": {STAGE1 + "height": 96, STAGE1 + "width": 160},
        "--size=160x96": {STAGE2 + "height": 96, STAGE2 + "width": 160},
        "--frames=21": {STAGE1 + "num_frames": 21},
        "--preview-steps=9": {STAGE1 + "num_steps": 9},
        "--preview-cfg=9": {STAGE1 + "guidance_scale": 9.0},
        "--guidance-curve=smooth": {STAGE1 + "guidance_curve": "smooth"},
        "--steps=9": {STAGE2 + "num_steps": 9},
        "--cfg=9": {STAGE2 + "guidance_scale": 9.0},
        "--shift=9": {STAGE2 + "shift": 9.0},
        "--noise-step=9": {STAGE2 + "noise_step": 9},
        "--match-colors=9": {STAGE2 + "match_colors": 9.0},
        "--nfe-values=9,10": {"settings.nfe": (9, 10)},
        "--cfg-values=9,10": {"settings.cfg": (9.0, 10.0)},
        "--noise-step-values=9,10": {"settings.noise_steps": (9, 10)},
        "--batch=9": {"settings.batch": 9},
        "--large-batch=9": {"settings.large_batch": 9},
        "--models={files}/models": {f"store.paths.{name}": f"{{files}}/models/{file}" for name, file in FILES.items()},
        "--stage1={files}/other-stage1.pt": {"store.paths.stage1": "{files}/other-stage1.pt"},
        "--stage2={files}/other-stage2.pt": {"store.paths.stage2": "{files}/other-stage2.pt"},
        "--vae={files}/other-3d-vae.pt": {"store.paths.vae": "{files}/other-3d-vae.pt"},
        "--text-encoder={files}/other-text": {"store.paths.text": "{files}/other-text"},
        "--tokenizer={files}/other-text": {"store.paths.tokenizer": "{files}/other-text"},
        "--lora={files}/lora.safetensors": {"store.lora": "{files}/lora.safetensors", "place.LoRA scale": "1"},
        "--lora-scale=0.5": {"store.lora_scale": 0.5},
        "--device=cpu": {"device": "cpu"},
        "--dtype=bf16": {
            **{"store.dtype": BF16, "store.vae_dtype": BF16},
            **{"place.dtype": "bf16", "place.vae dtype": "bf16"},
        },
        "--vae-dtype=bf16": {"store.vae_dtype": BF16, "place.vae dtype": "bf16"},
        "--offload=disk": {"store.offload": "disk"},
    },
}


@pytest.fixture
def handed_on(files, tmp_path_factory, capsys):
    """``handed_on(command, more)``: what a command gives to what does the work, which is not done."""

    def of(command: str, *more: str) -> dict[str, Any]:
        out, found = tmp_path_factory.mktemp("out"), {}
        with pytest.MonkeyPatch.context() as patch:
            watch_models(patch, found, True)
            for module, name, watched in watched_functions(found):
                patch.setattr(module, name, watched)
            (out / "rates.json").write_text(json.dumps({"machine": {"rates": CARDS["H200"].to_dict()}}))
            capsys.readouterr()
            found["exit"] = main([word.format(files=files, out=out) for word in (command, *BASE[command], *more)])
        found["json"] = capsys.readouterr().out.startswith("{")
        places = {str(files): "{files}", str(out): "{out}"}
        return {name: neutral(value, places) for name, value in found.items()}

    return of


def neutral(value: Any, places: dict[str, str]) -> Any:
    for place, name in places.items():
        value = value.replace(place, name) if isinstance(value, str) else value
    return value


def watched_functions(found: dict[str, Any]) -> list[tuple[Any, str, Any]]:
    """(module, name, what stands there instead): each notes what it is given."""
    look = checkpoints.inspect_checkpoint

    def convert(source: Path, output: Path, **how: Any) -> Path:
        found.update(how)
        return source

    def inspect(path: Path, *, values: bool) -> Any:
        found["values"] = values
        return look(path, values=values)

    def run_report(bench: Any, weights: Any, *, sections: Any, place: dict[str, str], again: bool) -> dict[str, Any]:
        found.update(flat(asdict(bench.settings), "settings.") | flat(place, "place."))
        found.update(sections=sections, again=again, folder=str(bench.folder))
        found["extras"] = [(extra.name, extra.stage) for extra in bench.extras]
        return {}

    def plan_run(stage1: Any, stage2: Any, target: Any, progress: Any) -> RunPlan:
        found.update(flat({"stage1": asdict(stage1), "stage2": asdict(stage2)}, "settings."))
        rates = None if target.rates is None else target.rates.to_dict()
        found.update({f"target.{name}": value for name, value in vars(target).items()})
        found.update({"target.device": str(target.device), "target.rates": rates})
        return RunPlan(target.name, "a load", "cpu", "a reason", "", (PlannedStep("Stage I", 51, None, 1, 1, ""),))

    def open_run(config: Path, folder: Path) -> Any:
        found["folder"] = str(folder)
        return SimpleNamespace(total_steps=9)

    def run_training(run: Any, **how: Any) -> int:
        found.update(how)
        return 9

    return [
        (checkpoints, "convert_checkpoint", convert),
        (checkpoints, "inspect_checkpoint", inspect),
        (report, "run_report", run_report),
        (report, "check_floors", lambda results: ["a floor"]),
        (plan, "plan_run", plan_run),
        (plan, "pick_device", options.pick_device),
        (train, "encode", lambda config: found.update(encoded=str(config))),
        (train, "open_run", open_run),
        (train, "read_toml", lambda config: {}),
        (loop, "train", run_training),
    ]


@pytest.mark.parametrize(
    ("command", "given", "changes"),
    [
        pytest.param(command, given, changes, id=f"{command} {given}")
        for command, cases in CASES.items()
        for given, changes in cases.items()
    ],
)
def test_an_option_changes_its_part_alone(command, given, changes, handed_on):
    before, after = handed_on(command), handed_on(command, given)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name: after.get(name) for name in changed} == changes


@pytest.mark.parametrize("command", CASES)
def test_every_option_has_a_case(command):
    assert options_of(command) == sorted(given.partition("=")[0] for given in CASES[command])
