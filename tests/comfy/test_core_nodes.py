"""Core's nodes that patch a MODEL, guide or sample, on both stages: each does what docs/core-nodes.md says of it."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest
import torch
from torch import Tensor

from tests.comfy.conftest import Bench, saved
from tests.comfy.golden_models import STAGE1, STAGE2, TEXT, VAE
from tests.comfy.server import ROOT, ComfyServer, RejectedError

PAGE = ROOT / "docs" / "core-nodes.md"
CONTEXT = torch.linspace(-1, 1, 226 * 32).view(1, 226, 32)
STEPS = {"stage1": 6, "stage2": 4}
OURS = ("FlashVideo", "Probe")
# Widgets whose defaults are neutral, on such small models, at least:
WIDGETS: dict[str, dict[str, Any]] = {
    "EasyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "LazyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0},
    "Epsilon Scaling": {"scaling_factor": 1.1},
    "ScaleROPE": {"scale_x": 2.0},
    "ModelNoiseScale": {"noise_scale": 2.0},
    "CFGOverride": {"cfg": 2.0},
    "ContextWindowsManual": {"context_length": 2, "context_overlap": 1, "dim": 2},
    "WanContextWindowsManual": {"context_length": 5, "context_overlap": 1},
    "LTXVContextWindows": {"context_length": 9, "context_overlap": 1},
    "FreSca": {"freq_cutoff": 1, "scale_high": 2.0},
    "SkipLayerGuidanceDiT": {"double_layers": "0", "start_percent": 0.0, "end_percent": 1.0},
    "SkipLayerGuidanceDiTSimple": {"double_layers": "0", "start_percent": 0.0, "end_percent": 1.0},
    "SkipLayerGuidanceSD3": {"layers": "0", "start_percent": 0.0, "end_percent": 1.0},
}


OUTCOMES = {"works", "works, same video", "no effect", "refused"}


def rows(columns: int) -> dict[str, list[str]]:
    """The page's rows of so many columns: node -> the other cells."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines()]
    listed = [row for row in cells if len(row) == columns and row[0].startswith("`")]
    return {node: row[1:] for row in listed for node in re.findall("`([^`]+)`", row[0])}


def concerned(info: dict[str, Any]) -> bool:
    """Whether a node is one of those that the page lists."""
    inputs = [spec[0] for part in ("required", "optional") for spec in info["input"].get(part, {}).values()]
    return bool({"GUIDER", "SAMPLER"} & set(info["output"])) or ("MODEL" in info["output"] and "MODEL" in inputs)


class Stage:
    """A graph in which a node stands between a stage's loader and its sampler."""

    def __init__(self, server: ComfyServer, folder: Any, stage: str, kind: str) -> None:
        self.bench, self.stage, self.kind = Bench(server, folder), stage, kind
        bench = self.bench
        self.model = bench.add(
            *(["FlashVideoLoadStage1"] if stage == "stage1" else ["FlashVideoLoadStage2"]),
            model_name=STAGE1 if stage == "stage1" else STAGE2,
        )
        self.positive = bench.tensor("ProbeConditioning", CONTEXT)
        self.empty = bench.add("FlashVideoEmptyLatent", size="custom", width=32, height=32, length=9)
        self.small = bench.latent(torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(0)))

    @property
    def info(self) -> dict[str, Any]:
        return dict(self.bench.server.get(f"/object_info/{quote(self.kind)}")[self.kind])

    def node(self) -> list[Any]:
        """The node with what it needs.

        Raises:
            LookupError: it needs what no graph of ours has.
        """
        bench, info = self.bench, self.info
        given = {}
        wanted = dict(info["input"].get("required", {}))
        if "GUIDER" in info["output"]:
            wanted |= info["input"].get("optional", {})
        for name, spec in wanted.items():
            kind, more = spec[0], (spec[1] if len(spec) > 1 else {})
            if "default" in more:
                merged = self.kind.startswith("ModelMerge") and kind == "FLOAT"
                given[name] = 0.5 if merged else more["default"]
            elif kind == "BOOLEAN":
                given[name] = False
            elif isinstance(kind, list) or kind == "COMBO":
                given[name] = (kind if isinstance(kind, list) else more["options"])[0]
            else:
                given[name] = self.link(name, kind)
        return bench.add(self.kind, **{**given, **WIDGETS.get(self.kind, {})})

    def link(self, name: str, kind: str) -> list[Any]:
        bench = self.bench
        if kind == "MODEL" and name == "model2":
            return bench.add("ModelMergeAdd", model1=self.model, model2=self.model)
        if kind == "LATENT":
            return self.empty if self.stage == "stage1" else self.small
        if kind == "VAE":
            return bench.add("FlashVideoLoadVAE", vae_name=VAE)
        if kind == "CLIP":
            return bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
        if kind == "IMAGE":
            return bench.add("EmptyImage", width=32, height=32)
        if kind == "LATENT_OPERATION":
            return bench.add("LatentOperationTonemapReinhard")
        if kind == "CONDITIONING" and name != "positive":
            other = CONTEXT / 2 if name == "empty_conditioning" else CONTEXT.flip(1)
            return bench.tensor("ProbeConditioning", other)
        return {"MODEL": self.model, "CONDITIONING": self.positive}[kind]

    def sampled(self, model: list[Any]) -> list[Any]:
        """Our sampler after a node."""
        shared = {"model": model, "positive": self.positive, "steps": STEPS[self.stage]}
        if self.stage == "stage1":
            return self.bench.add("FlashVideoStage1Sampler", **shared, latent=self.empty)
        degraded = self.bench.add("FlashVideoDegrade", latent=self.small)
        return self.bench.add("FlashVideoStage2Refiner", **shared, latent=degraded)

    def parts(self, guider: list[Any] | None = None, sampler: list[Any] | None = None) -> list[Any]:
        """Core's sampler with a guider or a sampler of its own."""
        add, steps = self.bench.add, STEPS[self.stage]
        if self.stage == "stage1":
            latent, sigmas = self.empty, add("FlashVideoStage1Sigmas", model=self.model, steps=steps)
        else:
            latent, sigmas = self.small, add("FlashVideoStage2Sigmas", steps=steps)
        zeros = self.bench.tensor("ProbeConditioning", CONTEXT * 0)
        own = {"model": self.model, "positive": self.positive, "negative": zeros, "cfg": 3.0}
        return add(
            "SamplerCustomAdvanced",
            noise=add("RandomNoise", noise_seed=0),
            guider=guider or add("CFGGuider", **own),
            sampler=sampler or add("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas,
            latent_image=latent,
        )

    def result(self) -> Tensor | str:
        """Latents, or an error."""
        if not self.kind:
            out = self.sampled(self.model)
        else:
            outputs = self.info["output"]
            node = self.node()
            kind = next(kind for kind in ("MODEL", "GUIDER", "SAMPLER") if kind in outputs)
            link = [node[0], outputs.index(kind)]
            out = {
                "MODEL": lambda: self.sampled(link),
                "GUIDER": lambda: self.parts(guider=link),
                "SAMPLER": lambda: self.parts(sampler=link),
            }[kind]()
        path = self.bench.save(out)
        try:
            run = self.bench.server.run(self.bench.graph)
        except RejectedError as error:
            return error.details
        return f"{run.error['exception_type']} on {run.error['node_type']}: {run.message}" if run.error else saved(path)


@pytest.fixture(scope="module")
def plain(server: ComfyServer, tmp_path_factory: Any) -> dict[str, Tensor]:
    """What both stages give without the nodes."""
    results = {stage: Stage(server, tmp_path_factory.mktemp(stage), stage, "").result() for stage in STEPS}
    return {stage: result for stage, result in results.items() if isinstance(result, Tensor)}


def outcome(result: Tensor | str, plain: Tensor) -> str:
    if isinstance(result, str):
        assert len(result) > 80, f"not in words: {result}"
        return "refused"
    assert torch.isfinite(result).all()
    return "changed" if (result - plain).abs().max() > 1e-3 else "same"


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize("kind", rows(4))
def test_the_page_says_what_a_node_does(
    server: ComfyServer, tmp_path: Any, plain: dict[str, Tensor], kind: str, stage: str
) -> None:
    written = rows(4)[kind][list(STEPS).index(stage)]
    assert written in OUTCOMES
    expected = {"works": "changed", "refused": "refused"}.get(written, "same")
    result = Stage(server, tmp_path, stage, kind).result()
    assert outcome(result, plain[stage]) == expected, result


def test_the_page_knows_all_nodes(server: ComfyServer) -> None:
    """Also those of a newer ComfyUI: what they do is to be found out."""
    nodes = {name for name, info in server.get("/object_info").items() if concerned(info) and not name.startswith(OURS)}
    assert nodes - {*rows(4), *rows(2)} == set()


@pytest.mark.parametrize("kind", ["KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"])
def test_a_degraded_latent_gets_no_noise_again(server: ComfyServer, tmp_path: Any, kind: str) -> None:
    parts = Stage(server, tmp_path, "stage2", "")
    bench = parts.bench
    latent = bench.add("FlashVideoDegrade", latent=parts.small)
    shared = {"model": parts.model, "positive": parts.positive, "negative": parts.positive, "latent_image": latent}
    shared |= {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    if kind.startswith("SamplerCustom"):
        shared = {name: shared[name] for name in ("model", "positive", "negative", "latent_image", "cfg")}
        shared |= {"sampler": bench.add("KSamplerSelect", sampler_name="euler"), "noise_seed": 1}
        shared |= {"sigmas": bench.add("FlashVideoStage2Sigmas", steps=2), "add_noise": True}
    if kind == "SamplerCustomAdvanced":
        guider = bench.add("BasicGuider", model=parts.model, conditioning=parts.positive)
        shared = {name: shared[name] for name in ("latent_image", "sampler", "sigmas")} | {"guider": guider}
        shared["noise"] = bench.add("RandomNoise", noise_seed=1)
    if kind == "KSamplerAdvanced":
        shared |= {"add_noise": "enable", "return_with_leftover_noise": "disable"}
    bench.save(bench.add(kind, **shared))
    assert "degraded already (noise step 675), and the sampler would add its noise once more" in bench.fails()


def test_a_degraded_latent_without_noise_goes_on(server: ComfyServer, tmp_path: Any) -> None:
    parts = Stage(server, tmp_path, "stage2", "")
    latent = parts.bench.add("FlashVideoDegrade", latent=parts.small)
    shared = {"model": parts.model, "positive": parts.positive, "negative": parts.positive, "latent_image": latent}
    shared |= {"steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
    shared |= {"add_noise": "disable", "return_with_leftover_noise": "disable"}
    path = parts.bench.save(parts.bench.add("KSamplerAdvanced", **shared))
    parts.bench.run()
    assert torch.isfinite(saved(path)).all()


CALM = ["euler", "dpm_adaptive", "res_multistep", "uni_pc", "heun"]
NOISY = ["euler_ancestral", "dpmpp_sde", "ddpm", "lcm", "sa_solver"]


@pytest.mark.parametrize("name", CALM + NOISY)
def test_stage2_takes_samplers_without_noise_alone(server: ComfyServer, tmp_path: Any, name: str) -> None:
    parts = Stage(server, tmp_path, "stage2", "")
    path = parts.bench.save(parts.parts(sampler=parts.bench.add("KSamplerSelect", sampler_name=name)))
    if name in CALM:
        parts.bench.run()
        assert torch.isfinite(saved(path)).all()
    else:
        assert "adds noise in its steps" in parts.bench.fails()
