"""The workflows that come with the pack, as data; ``make_workflows.py`` turns them into files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flashvideo.loading.published import PUBLISHED
from flashvideo.report.settings import TINY_STAGE1, TINY_STAGE2

Link = tuple[str, int]  # (name of a node in the same workflow, index of its output)


@dataclass(frozen=True)
class Node:
    """A node: what is not named keeps its default. ``inputs`` are links."""

    kind: str
    widgets: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Link] = field(default_factory=dict)
    title: str = ""
    width: int = 0
    height: int = 0
    room: int = 0  # pixels left free below: the node grows when it has run
    models: tuple[dict[str, str], ...] = ()  # name, url and directory of files that the editor offers to download


@dataclass(frozen=True)
class Group:
    """A column of nodes in a frame, with a note on top."""

    title: str
    nodes: dict[str, Node]
    note: str = ""
    colour: str = "#3f789e"


@dataclass(frozen=True)
class Workflow:
    """``file``: the name without suffix, which the templates browser shows."""

    file: str
    groups: tuple[Group, ...]


TINY = {
    "stage1": "tiny-stage1.safetensors (bundled)",
    "stage2": "tiny-stage2.safetensors (bundled)",
    "vae": "tiny-vae.safetensors (bundled)",
    "text": "tiny-text (bundled)",
}
FULL = {part: file.name for part, file in PUBLISHED.items()}
PROMPT = (
    "A small red boat drifts across a calm lake at dawn. Soft mist lies over the water, and low golden light "
    "comes from the left and paints long reflections on the ripples. Dark pines stand along the far shore. The "
    "camera follows slowly from the side at the height of the water, and the boat leaves a fine wake behind it. "
    "The mood is quiet, the colours are warm and muted, and every plank of the hull can be seen."
)
GREEN, PURPLE, BROWN, GREY = "#3f8e5a", "#7a4f9e", "#8e6f3f", "#5a5a5a"

_FILES_NOTE = (
    "**Files** (Hugging Face: `FoundationVision/FlashVideo`)\n\n"
    "- `stage1.pt`, `stage2.pt` → `models/diffusion_models`\n- `3d-vae.pt` → `models/vae`\n"
    "- T5 v1.1 XXL, such as `t5xxl_fp16.safetensors` → `models/text_encoders`\n\n"
    "Other names: choose them in the loaders."
)
_TINY_NOTE = (
    "**FlashVideo-Tiny, nothing to download.** It comes with the pack, was trained with its training code, and runs on "
    "any CPU in seconds. It knows one small world: shapes that move over backgrounds.\n\n"
    "For real videos open *two-stage-text-to-video*."
)


def _loader(kind: str, widget: str, name: str) -> Node:
    offers = [{"name": f.name, "url": f.url, "directory": f.folder} for f in PUBLISHED.values() if f.name == name]
    return Node(kind, {widget: name}, models=tuple(offers))


def _models(files: dict[str, str], stages: str = "12", note: str = _FILES_NOTE) -> Group:
    nodes = {f"stage{n}": _loader(f"FlashVideoLoadStage{n}", "model_name", files[f"stage{n}"]) for n in stages}
    nodes["clip"] = _loader("FlashVideoLoadTextEncoder", "text_encoder_name", files["text"])
    nodes["vae"] = _loader("FlashVideoLoadVAE", "vae_name", files["vae"])
    return Group("1 · Models", nodes, note, GREY)


def _encode(stage: str, prompt: str = PROMPT) -> Node:
    widgets = {"prompt": prompt, "stage": stage}
    return Node(
        "FlashVideoTextEncode", widgets, {"clip": ("clip", 0)}, title=f"Prompt for {stage}", width=420, height=320
    )


_PROMPT_NOTE = (
    "**The same prompt twice.** Stage II was trained with the kind of motion in front (`medium motion,`); the node "
    "adds it. Long, detailed prompts work best; 226 tokens are read."
)
_TINY_WORDS = (
    "**The same prompt twice.** One to three shapes, each with size, texture, colour and motion, over a ground. "
    "These words it knows: small, large · plain, striped, barred, banded · red, yellow, green, blue, pink, white · "
    "circle, square, triangle, star, cross · moves left, right, up, down, stays still · at night, over the sea, over a "
    "meadow, over the desert, before a wall. Shapes are joined by *and*."
)


def _prompts(prompt: str = PROMPT, note: str = _PROMPT_NOTE) -> Group:
    return Group("2 · Prompt", {"text1": _encode("Stage I", prompt), "text2": _encode("Stage II", prompt)}, note, GREEN)


def _stage1(size: dict[str, Any], batch: int, steps: int, note: str, **sampler: Any) -> Group:
    links = {"model": ("stage1", 0), "positive": ("text1", 0), "latent": ("empty", 0), "negative": ("text1", 1)}
    nodes = {
        "empty": Node("FlashVideoEmptyLatent", {**size, "batch_size": batch}),
        "sample1": Node(
            "FlashVideoStage1Sampler", {"steps": steps, "seed": 1, **sampler}, {**links, "vae": ("vae", 0)}
        ),
    }
    return Group("3 · Stage I: the small video", nodes, note)


def _gate(note: str, latent: Link = ("sample1", 0)) -> Group:
    gate = Node("FlashVideoPreviewGate", {}, {"latent": latent, "vae": ("vae", 0)}, width=420, room=300)
    return Group("4 · Look first", {"gate": gate}, note, BROWN)


def _small(latent: Link) -> Node:
    return Node(
        "FlashVideoTiledDecode", {}, {"latent": latent, "vae": ("vae", 0)}, title="Decode the small video", room=50
    )


def _target(target: dict[str, Any], image: Link, **degrade: Any) -> dict[str, Node]:
    links = {"latent": ("upscale", 0), "model": ("stage2", 0)}
    return {
        "upscale": Node("FlashVideoUpscaleEncode", {**target, "seed": 1}, {"image": image, "vae": ("vae", 0)}, room=50),
        "degrade": Node("FlashVideoDegrade", {"seed": 2, **degrade}, links),
    }


def _refine(**widgets: Any) -> Node:
    links = {"model": ("stage2", 0), "positive": ("text2", 0), "latent": ("degrade", 0), "negative": ("text2", 1)}
    return Node("FlashVideoStage2Refiner", widgets, links)


def _video(latent: Link, prefix: str, widgets: dict[str, Any] | None = None, **links: Link) -> dict[str, Node]:
    return {
        "video": Node("FlashVideoDecodeVideo", widgets or {}, {"latent": latent, "vae": ("vae", 0), **links}),
        "save": Node(
            "SaveVideo", {"filename_prefix": f"FlashVideo/{prefix}"}, {"video": ("video", 0)}, width=420, room=260
        ),
    }


_STAGE2_NOTE = (
    "**Four steps to full resolution.** The small video is stretched to the target and encoded, mixed with noise "
    "(step {}), and refined. More noise gives Stage II more freedom, less keeps closer to the small video."
)
_SAVE_NOTE = (
    "**Decode to Video** is lazy: Save Video writes the file chunk by chunk, so host memory stays small at any length."
)
_GATE_NOTE = (
    "**Run** paints the previews and stops here. Press **Refine** under the one you like: only that one goes on, and "
    "Stage I does not run again — not after other workflows, not after a restart.\n\n"
    "Change the prompt or the seed, and the next Run makes new previews."
)
_TINY_SIZE = {"size": "custom", "width": TINY_STAGE1.width, "height": TINY_STAGE1.height, "length": 17}
_TINY_TARGET = {"size": "custom", "width": TINY_STAGE2.width, "height": TINY_STAGE2.height}


def _stage2(target: dict[str, Any], source: Link, noise_step: int = 675, **refiner: Any) -> Group:
    degrade = _target(target, ("small", 0), noise_step=noise_step)
    nodes = {"small": _small(source), **degrade, "refine": _refine(**refiner)}
    return Group("5 · Stage II: full resolution", nodes, _STAGE2_NOTE.format(noise_step), PURPLE)


TINY_DEMO = Workflow(
    "tiny-demo",
    (
        _models(TINY, note=_TINY_NOTE),
        _prompts("a large striped red star moves left over the sea", _TINY_WORDS),
        _stage1(
            _TINY_SIZE,
            2,
            TINY_STAGE1.num_steps,
            "Two tiny previews: seed 1 and seed 2. Small models want less guidance, and the same at every step.",
            cfg=TINY_STAGE1.guidance_scale,
            guidance_curve=TINY_STAGE1.guidance_curve,
        ),
        _gate(_GATE_NOTE),
        _stage2(_TINY_TARGET, ("gate", 0), TINY_STAGE2.noise_step, cfg=TINY_STAGE2.guidance_scale),
        Group(
            "6 · Save", _video(("refine", 0), "tiny", {"match_colors": 1.0}, colors_of=("small", 0)), _SAVE_NOTE, GREY
        ),
    ),
)

TEXT_TO_VIDEO = Workflow(
    "two-stage-text-to-video",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 1, 51, "**270p, 49 frames, 51 steps**: what Stage I was trained for and the authors run."),
        _stage2({}, ("sample1", 0)),
        Group("6 · Save", _video(("refine", 0), "1080p"), _SAVE_NOTE, GREY),
    ),
)

PREVIEW_THEN_REFINE = Workflow(
    "preview-then-refine",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 4, 51, "**Four previews**: seed, seed + 1, seed + 2, seed + 3, one after another."),
        _gate(_GATE_NOTE),
        _stage2({}, ("gate", 0)),
        Group(
            "6 · Save and compare",
            {
                **_video(("refine", 0), "refined"),
                "large": Node("GetVideoComponents", {}, {"video": ("video", 0)}, title="Frames of the result"),
                "compare": Node(
                    "FlashVideoCompare", {}, {"before": ("small", 0), "after": ("large", 0)}, width=480, room=280
                ),
            },
            _SAVE_NOTE + "\n\n**Compare**: move the pointer over it to wipe between before and after. It holds all "
            "frames in memory; delete it for long or 4K videos.",
            GREY,
        ),
    ),
)

REFINE_ANY = Workflow(
    "refine-any-video",
    (
        _models(FULL, "2"),
        Group("2 · Prompt", {"text2": _encode("Stage II")}, "Describe what the video shows, in detail.", GREEN),
        Group(
            "3 · Your video",
            {
                "load": Node("LoadVideo", {"file": "flashvideo_example.mp4"}, width=420, room=260),
                "small": Node("GetVideoComponents", {}, {"video": ("load", 0)}, title="Its frames"),
            },
            "Any small video, of any length: 49 frames at 8 a second are what Stage II knows best. Its audio and frame "
            "rate are kept.",
        ),
        Group(
            "4 · Stage II",
            {**_target({"resize": "crop"}, ("small", 0)), "refine": _refine()},
            _STAGE2_NOTE.format(675)
            + "\n\n**crop** keeps the proportions; *pad* adds borders, *stretch* is what was trained.",
            PURPLE,
        ),
        Group("5 · Save", _video(("refine", 0), "refined", source=("load", 0)), _SAVE_NOTE, GREY),
    ),
)

_CORE_NOTE = (
    "**The same with core's sampler nodes**: SamplerCustomAdvanced, RandomNoise and CFGGuider with our sigmas. Other "
    "packs' guiders, samplers and model patches fit in here."
)
STAGE_PARTS = Workflow(
    "stage-parts-with-core-samplers",
    (
        _models(FULL),
        _prompts(),
        Group(
            "3 · Stage I in parts",
            {
                "empty": Node("FlashVideoEmptyLatent"),
                "noise1": Node("RandomNoise", {"noise_seed": 1, "control_after_generate": "fixed"}),
                "guider1": Node(
                    "FlashVideoStage1Guider",
                    {},
                    {"model": ("stage1", 0), "positive": ("text1", 0), "negative": ("text1", 1)},
                ),
                "solver1": Node("FlashVideoStage1Solver"),
                "sigmas1": Node("FlashVideoStage1Sigmas", {}, {"model": ("stage1", 0)}),
                "sample1": Node(
                    "SamplerCustomAdvanced",
                    {},
                    {
                        "noise": ("noise1", 0),
                        "guider": ("guider1", 0),
                        "sampler": ("solver1", 0),
                        "sigmas": ("sigmas1", 0),
                        "latent_image": ("empty", 0),
                    },
                ),
            },
            _CORE_NOTE,
        ),
        Group(
            "4 · The way to Stage II",
            {
                "small": _small(("sample1", 0)),
                "upscale": Node(
                    "FlashVideoUpscaleEncode", {"seed": 1}, {"image": ("small", 0), "vae": ("vae", 0)}, room=50
                ),
                "step2": Node("FlashVideoStage2NoiseStep", {}, {"model": ("stage2", 0)}),
            },
            "No Latent Degradation here: the model's own sampling mixes RandomNoise into the plain latent, at the step "
            "that **Stage II Noise Step** sets.",
            BROWN,
        ),
        Group(
            "5 · Stage II in parts",
            {
                "noise2": Node("RandomNoise", {"noise_seed": 2, "control_after_generate": "fixed"}),
                "guider2": Node(
                    "CFGGuider",
                    {"cfg": 13.0},
                    {"model": ("step2", 0), "positive": ("text2", 0), "negative": ("text2", 1)},
                ),
                "solver2": Node("KSamplerSelect", {"sampler_name": "euler"}),
                "sigmas2": Node("FlashVideoStage2Sigmas"),
                "sample2": Node(
                    "SamplerCustomAdvanced",
                    {},
                    {
                        "noise": ("noise2", 0),
                        "guider": ("guider2", 0),
                        "sampler": ("solver2", 0),
                        "sigmas": ("sigmas2", 0),
                        "latent_image": ("upscale", 0),
                    },
                ),
            },
            "",
            PURPLE,
        ),
        Group("6 · Save", _video(("sample2", 0), "parts"), _SAVE_NOTE, GREY),
    ),
)

PARAMETER_GRID = Workflow(
    "parameter-grid",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 1, 51, "The clip that all cells refine."),
        Group(
            "4 · One undegraded latent",
            {
                "small": _small(("sample1", 0)),
                "upscale": Node(
                    "FlashVideoUpscaleEncode", {"seed": 1}, {"image": ("small", 0), "vae": ("vae", 0)}, room=50
                ),
            },
            "The grid degrades it itself, with the same noise for every cell.",
            BROWN,
        ),
        Group(
            "5 · Grid",
            {
                "grid": Node(
                    "FlashVideoParameterGrid",
                    {"seed": 2},
                    {
                        "model": ("stage2", 0),
                        "positive": ("text2", 0),
                        "latent": ("upscale", 0),
                        "vae": ("vae", 0),
                        "negative": ("text2", 1),
                    },
                    width=420,
                ),
                "save": Node(
                    "SaveImage", {"filename_prefix": "FlashVideo/grid"}, {"images": ("grid", 0)}, width=480, room=300
                ),
            },
            "Each list is tried against each other: 3 steps × 2 CFG × 1 noise step = 6 cells, a labelled sheet.",
            PURPLE,
        ),
    ),
)

WORKFLOWS = (TINY_DEMO, TEXT_TO_VIDEO, PREVIEW_THEN_REFINE, REFINE_ANY, STAGE_PARTS, PARAMETER_GRID)
