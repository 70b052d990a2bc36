"""The workflows that come with the pack, as data; ``make_workflows.py`` turns them into files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flashvideo.loading.published import PUBLISHED
from flashvideo.report.settings import TINY_STAGE1, TINY_STAGE2
from flashvideo.shapes.scenes import sample_scene

from . import workflow_notes as say
from .workflow_notes import NO_WORDS, Words

Link = tuple[str, int]  # (name of a node in the same workflow, index of its output)


@dataclass(frozen=True)
class Node:
    """A node: what is not named keeps its default. ``inputs`` are links."""

    kind: str
    widgets: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Link] = field(default_factory=dict)
    title: Words = NO_WORDS
    width: int = 0
    height: int = 0
    models: tuple[dict[str, str], ...] = ()  # name, url and directory of files that the editor offers to download


@dataclass(frozen=True)
class Group:
    """A column of nodes in a frame, with a note on top."""

    title: Words
    nodes: dict[str, Node]
    note: Words = NO_WORDS
    colour: str = "#3f789e"


@dataclass(frozen=True)
class Workflow:
    """``name``: the API file. ``title``: the editor's file; the templates browser shows and searches file names."""

    name: str
    title: str
    groups: tuple[Group, ...]


# Pixels that a node grows by when it runs: a picture while sampling, a player, the gate's cards, lines of text.
GROWTH = {
    **dict.fromkeys(("FlashVideoStage1Sampler", "FlashVideoStage2Refiner", "SamplerCustomAdvanced"), 240),
    **dict.fromkeys(
        (
            *("FlashVideoTiledDecode", "FlashVideoUpscaleEncode", "FlashVideoTextEncode"),
            *("FlashVideoVideoFrames", "FlashVideoRefineVideo"),
        ),
        60,
    ),
    **dict.fromkeys(("SaveVideo", "SaveImage", "LoadVideo", "FlashVideoCompare"), 340),
    **dict.fromkeys(("FlashVideoPreviewGate", "FlashVideoParameterGrid"), 420),
}


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
EXAMPLE_VIDEO = "flashvideo_example.mp4"  # in ComfyUI's input folder; the pack puts it there
EXAMPLE_SCENE = sample_scene(4, count=2, held_out=None)
GREEN, PURPLE, BROWN, GREY = "#3f8e5a", "#7a4f9e", "#8e6f3f", "#5a5a5a"


def _loader(kind: str, widget: str, name: str) -> Node:
    offers = [{"name": f.name, "url": f.url, "directory": f.folder} for f in PUBLISHED.values() if f.name == name]
    return Node(kind, {widget: name}, models=tuple(offers))


def _models(files: dict[str, str], stages: str = "12", note: Words = say.FILES_NOTE) -> Group:
    nodes = {f"stage{n}": _loader(f"FlashVideoLoadStage{n}", "model_name", files[f"stage{n}"]) for n in stages}
    nodes["clip"] = _loader("FlashVideoLoadTextEncoder", "text_encoder_name", files["text"])
    nodes["vae"] = _loader("FlashVideoLoadVAE", "vae_name", files["vae"])
    return Group(say.MODELS, nodes, note, GREY)


def _encode(stage: str, widgets: dict[str, Any], **links: Link) -> Node:
    title = say.PROMPT_FOR[stage]
    return Node("FlashVideoTextEncode", {**widgets, "stage": stage}, {"clip": ("clip", 0), **links}, title, 420)


def _text(prompt: str) -> Node:
    return Node("PrimitiveStringMultiline", {"value": prompt}, title=say.PROMPT_BOX, width=420, height=260)


def _prompts(prompt: str = PROMPT, note: Words = say.PROMPT_NOTE) -> Group:
    stages = {f"text{n}": _encode(f"Stage {'I' * n}", {}, prompt=("prompt", 0)) for n in (1, 2)}
    return Group(say.PROMPT, {"prompt": _text(prompt), **stages}, note, GREEN)


def _stage1(size: dict[str, Any], batch: int, steps: int, note: Words, **sampler: Any) -> Group:
    links = {"model": ("stage1", 0), "positive": ("text1", 0), "latent": ("empty", 0), "negative": ("text1", 1)}
    nodes = {
        "empty": Node("FlashVideoEmptyLatent", {**size, "batch_size": batch}),
        "sample1": Node(
            "FlashVideoStage1Sampler", {"steps": steps, "seed": 1, **sampler}, {**links, "vae": ("vae", 0)}
        ),
    }
    return Group(say.STAGE1, nodes, note)


def _gate(note: Words, latent: Link = ("sample1", 0)) -> Group:
    gate = Node("FlashVideoPreviewGate", {}, {"latent": latent, "vae": ("vae", 0)}, width=420)
    return Group(say.LOOK, {"gate": gate}, note, BROWN)


def _small(latent: Link) -> Node:
    return Node("FlashVideoTiledDecode", {}, {"latent": latent, "vae": ("vae", 0)}, title=say.SMALL_VIDEO)


def _target(target: dict[str, Any], image: Link, **degrade: Any) -> dict[str, Node]:
    links = {"latent": ("upscale", 0), "model": ("stage2", 0)}
    return {
        "upscale": Node("FlashVideoUpscaleEncode", {**target, "seed": 1}, {"image": image, "vae": ("vae", 0)}),
        "degrade": Node("FlashVideoDegrade", {"seed": 2, **degrade}, links),
    }


def _refine(**widgets: Any) -> Node:
    links = {"model": ("stage2", 0), "positive": ("text2", 0), "latent": ("degrade", 0), "negative": ("text2", 1)}
    return Node("FlashVideoStage2Refiner", widgets, links)


def _video(latent: Link, prefix: str, widgets: dict[str, Any] | None = None, **links: Link) -> dict[str, Node]:
    return {
        "video": Node("FlashVideoDecodeVideo", widgets or {}, {"latent": latent, "vae": ("vae", 0), **links}),
        "save": Node("SaveVideo", {"filename_prefix": f"FlashVideo/{prefix}"}, {"video": ("video", 0)}, width=420),
    }


_TINY_SIZE = {"size": "custom", "width": TINY_STAGE1.width, "height": TINY_STAGE1.height, "length": 17}
_TINY_TARGET = {"size": "custom", "width": TINY_STAGE2.width, "height": TINY_STAGE2.height}


def _stage2(target: dict[str, Any], source: Link, noise_step: int = 675, **refiner: Any) -> Group:
    degrade = _target(target, ("small", 0), noise_step=noise_step)
    nodes = {"small": _small(source), **degrade, "refine": _refine(**refiner)}
    return Group(say.STAGE2, nodes, say.stage2_note(noise_step), PURPLE)


TINY_DEMO = Workflow(
    "tiny-demo",
    "FlashVideo tiny demo, no downloads",
    (
        _models(TINY, note=say.TINY_NOTE),
        _prompts("a large striped red star moves left over the sea", say.TINY_WORDS),
        _stage1(
            _TINY_SIZE,
            2,
            TINY_STAGE1.num_steps,
            say.TINY_STAGE1_NOTE,
            cfg=TINY_STAGE1.guidance_scale,
            guidance_curve=TINY_STAGE1.guidance_curve,
        ),
        _gate(say.GATE_NOTE),
        _stage2(_TINY_TARGET, ("gate", 0), TINY_STAGE2.noise_step, cfg=TINY_STAGE2.guidance_scale),
        Group(
            say.SAVE, _video(("refine", 0), "tiny", {"match_colors": 1.0}, colors_of=("small", 0)), say.SAVE_NOTE, GREY
        ),
    ),
)

TEXT_TO_VIDEO = Workflow(
    "two-stage-text-to-video",
    "FlashVideo text to video",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 1, 51, say.STAGE1_NOTE),
        _stage2({}, ("sample1", 0)),
        Group(say.SAVE, _video(("refine", 0), "1080p"), say.SAVE_NOTE, GREY),
    ),
)

PREVIEW_THEN_REFINE = Workflow(
    "preview-then-refine",
    "FlashVideo preview, then refine",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 4, 51, say.FOUR_NOTE),
        _gate(say.GATE_NOTE),
        _stage2({}, ("gate", 0)),
        Group(
            say.SAVE_COMPARE,
            {
                **_video(("refine", 0), "refined"),
                "large": Node("GetVideoComponents", {}, {"video": ("video", 0)}, title=say.RESULT_FRAMES),
                "compare": Node("FlashVideoCompare", {}, {"before": ("small", 0), "after": ("large", 0)}, width=480),
            },
            say.COMPARE_NOTE,
            GREY,
        ),
    ),
)


def _described() -> Group:
    """A prompt for Stage II alone."""
    nodes = {"prompt": _text(EXAMPLE_SCENE.caption), "text2": _encode("Stage II", {}, prompt=("prompt", 0))}
    return Group(say.PROMPT, nodes, say.DESCRIBE_NOTE, GREEN)


def _your_video(note: Words = say.ANY_VIDEO_NOTE) -> Group:
    return Group(say.YOUR_VIDEO, {"load": Node("LoadVideo", {"file": EXAMPLE_VIDEO}, width=420)}, note)


def _refine_video(video: Link, model: Link = ("stage2", 0), **widgets: Any) -> Node:
    links = {"video": video, "model": model, "positive": ("text2", 0), "vae": ("vae", 0), "negative": ("text2", 1)}
    return Node("FlashVideoRefineVideo", {"seed": 1, **widgets}, links, width=380)


def _save(title: Words, prefix: str, video: Link = ("refine", 0), note: Words = say.SAVE_LAZY_NOTE) -> Group:
    save = Node("SaveVideo", {"filename_prefix": f"FlashVideo/{prefix}"}, {"video": video}, width=420)
    return Group(title, {"save": save}, note, GREY)


def _video_of(images: Link, fps: float, **links: Link) -> Node:
    return Node("CreateVideo", {"fps": fps}, {"images": images, **links})


def _interpolated(images: Link) -> dict[str, Node]:
    """Three times as many frames a second, as a VIDEO."""
    file = say.INTERPOLATOR
    offered = ({"name": file.name, "url": file.url, "directory": file.folder},)
    links = {"interp_model": ("interpolator", 0), "images": images}
    return {
        "interpolator": Node("FrameInterpolationModelLoader", {"model_name": file.name}, models=offered),
        "between": Node("FrameInterpolate", {"multiplier": 3}, links),
        "smooth": _video_of(("between", 0), 24.0),
    }


REFINE_ANY = Workflow(
    "refine-any-video",
    "FlashVideo refine any video",
    (
        _models(FULL, "2", say.STAGE2_FILES_NOTE),
        _described(),
        _your_video(),
        Group(
            say.STAGE2_OF_FOUR,
            {"refine": _refine_video(("load", 0), resize="crop")},
            say.REFINE_VIDEO_NOTE,
            PURPLE,
        ),
        _save(say.SAVE_FIFTH, "refined"),
    ),
)

FOUR_K = Workflow(
    "4k",
    "FlashVideo 4K",
    (
        _models(FULL, "2", say.STAGE2_FILES_NOTE),
        _described(),
        _your_video(),
        Group(
            say.STAGE2_WINDOWS,
            {
                "windows": Node("FlashVideoAttentionWindows", {}, {"model": ("stage2", 0)}),
                "refine": _refine_video(("load", 0), ("windows", 0), size="4k (3840x2160)", resize="crop"),
            },
            say.FOUR_K_NOTE,
            PURPLE,
        ),
        _save(say.SAVE_FIFTH, "4k", note=say.FOUR_K_SAVE_NOTE),
    ),
)

RESTORE = Workflow(
    "restore-footage",
    "FlashVideo restore footage",
    (
        _models(FULL, "2", say.STAGE2_FILES_NOTE),
        _described(),
        _your_video(say.RESTORE_NOTE),
        Group(
            say.REDUCED,
            {
                "frames": Node("FlashVideoVideoFrames", {}, {"video": ("load", 0)}, title=say.ITS_FRAMES),
                "reduced": Node("ImageScaleBy", {"upscale_method": "area", "scale_by": 0.5}, {"image": ("frames", 0)}),
                "footage": Node(
                    "CreateVideo", {}, {"images": ("reduced", 0), "audio": ("frames", 1), "fps": ("frames", 2)}
                ),
            },
            say.REDUCE_NOTE,
            BROWN,
        ),
        Group(
            say.RESTORED,
            {"refine": _refine_video(("footage", 0), size="short side", noise_step=700, match_colors=8.0)},
            say.RESTORED_NOTE,
            PURPLE,
        ),
        _save(say.SAVE, "restored"),
    ),
)

LONG_VIDEO = Workflow(
    "long-video",
    "FlashVideo long video",
    (
        _models(FULL, "2", say.STAGE2_FILES_NOTE),
        _described(),
        Group(
            say.A_PART,
            {
                "load": Node("LoadVideo", {"file": EXAMPLE_VIDEO}, width=420),
                "part": Node("Video Slice", {"duration": 5.0}, {"video": ("load", 0)}),
            },
            say.LONG_NOTE,
        ),
        Group(
            say.STAGE2_WINDOWS,
            {
                "windows": Node("FlashVideoAttentionWindows", {}, {"model": ("stage2", 0)}),
                "refine": _refine_video(("part", 0), ("windows", 0), resize="crop"),
            },
            say.LONG_WINDOWS_NOTE,
            PURPLE,
        ),
        _save(say.SAVE_FIFTH, "long"),
    ),
)

SMOOTH_FIRST = Workflow(
    "24-fps-before-refining",
    "FlashVideo 24 fps before refining",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 4, 51, say.FOUR_NOTE),
        _gate(say.GATE_NOTE),
        Group(
            say.BETWEEN_FRAMES,
            {"small": _small(("gate", 0)), **_interpolated(("small", 0))},
            say.INTERPOLATE_NOTE,
            BROWN,
        ),
        Group(say.STAGE2_SIXTH, {"refine": _refine_video(("smooth", 0))}, say.EVERY_FRAME_NOTE, PURPLE),
        _save(say.SAVE_SEVENTH, "24fps"),
    ),
)

SMOOTH_LAST = Workflow(
    "24-fps-after-refining",
    "FlashVideo 24 fps after refining",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 4, 51, say.FOUR_NOTE),
        _gate(say.GATE_NOTE),
        _stage2({}, ("gate", 0)),
        Group(
            say.FRAMES_AND_SAVE,
            {
                "decoded": Node("FlashVideoTiledDecode", {}, {"latent": ("refine", 0), "vae": ("vae", 0)}),
                **_interpolated(("decoded", 0)),
                "save": Node("SaveVideo", {"filename_prefix": "FlashVideo/24fps"}, {"video": ("smooth", 0)}, width=420),
            },
            say.INTERPOLATE_AFTER_NOTE,
            GREY,
        ),
    ),
)

STAGE_PARTS = Workflow(
    "stage-parts-with-core-samplers",
    "FlashVideo with core samplers",
    (
        _models(FULL),
        _prompts(),
        Group(
            say.PARTS1,
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
            say.CORE_NOTE,
        ),
        Group(
            say.BETWEEN,
            {
                "small": _small(("sample1", 0)),
                "upscale": Node("FlashVideoUpscaleEncode", {"seed": 1}, {"image": ("small", 0), "vae": ("vae", 0)}),
                "step2": Node("FlashVideoStage2NoiseStep", {}, {"model": ("stage2", 0)}),
            },
            say.BETWEEN_NOTE,
            BROWN,
        ),
        Group(
            say.PARTS2,
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
            NO_WORDS,
            PURPLE,
        ),
        Group(say.SAVE, _video(("sample2", 0), "parts"), say.SAVE_NOTE, GREY),
    ),
)

PARAMETER_GRID = Workflow(
    "parameter-grid",
    "FlashVideo parameter grid",
    (
        _models(FULL),
        _prompts(),
        _stage1({}, 1, 51, say.ONE_CLIP_NOTE),
        Group(
            say.UNDEGRADED,
            {
                "small": _small(("sample1", 0)),
                "upscale": Node("FlashVideoUpscaleEncode", {"seed": 1}, {"image": ("small", 0), "vae": ("vae", 0)}),
            },
            say.UNDEGRADED_NOTE,
            BROWN,
        ),
        Group(
            say.GRID,
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
                "save": Node("SaveImage", {"filename_prefix": "FlashVideo/grid"}, {"images": ("grid", 0)}, width=480),
            },
            say.GRID_NOTE,
            PURPLE,
        ),
    ),
)

WORKFLOWS = (
    *(TINY_DEMO, TEXT_TO_VIDEO, PREVIEW_THEN_REFINE, REFINE_ANY, RESTORE, FOUR_K),
    *(LONG_VIDEO, SMOOTH_FIRST, SMOOTH_LAST, STAGE_PARTS, PARAMETER_GRID),
)
