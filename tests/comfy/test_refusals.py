"""What is refused before anything runs: in words, on the node, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flashvideo.loading.published import PUBLISHED
from tests.comfy.conftest import Bench
from tests.comfy.golden_models import STAGE1, STAGE2, TEXT, VAE
from tests.comfy.server import ComfyServer, RejectedError

LOADERS = {
    "stage1": ("FlashVideoLoadStage1", "model_name"),
    "stage2": ("FlashVideoLoadStage2", "model_name"),
    "vae": ("FlashVideoLoadVAE", "vae_name"),
    "text": ("FlashVideoLoadTextEncoder", "text_encoder_name"),
}


def refused(bench: Bench, node: list[Any]) -> str:
    """What ComfyUI says about a node that two others take: one error."""
    for _ in range(2):
        bench.add("PreviewAny", source=node)
    with pytest.raises(RejectedError) as caught:
        bench.server.queue(bench.graph)
    assert list(caught.value.errors) == [node[0]]
    (error,) = caught.value.errors[node[0]]["errors"]
    return str(error["details"])


@pytest.mark.parametrize("part", LOADERS)
def test_a_missing_file_is_told_with_its_source(bench: Bench, part: str) -> None:
    """The names of the golden models are others than the published ones."""
    file, (kind, widget) = PUBLISHED[part], LOADERS[part]
    said = refused(bench, bench.add(kind, **{widget: file.name}))
    assert f"There is no '{file.name}' in models/{file.folder}. Download {file.url} into that folder" in said
    assert "(bundled)' needs no download" in said


def test_a_missing_file_of_another_name_too(bench: Bench) -> None:
    said = refused(bench, bench.add("FlashVideoLoadStage1", model_name="sub/mine.safetensors"))
    assert f"Download {PUBLISHED['stage1'].page} (stage1.pt) into that folder" in said


def test_an_empty_menu_says_where_files_go(server: ComfyServer, bench: Bench, tmp_path: Path) -> None:
    folder = server.base / "models" / "loras"
    folder.mkdir(exist_ok=True)
    files = [*folder.iterdir()]
    for file in files:
        file.rename(tmp_path / file.name)
    try:
        info = server.get("/object_info/FlashVideoLoadLora")["FlashVideoLoadLora"]
        (entry,) = info["input"]["required"]["lora_name"][1]["options"]
        model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
        said = refused(bench, bench.add("FlashVideoLoadLora", model=model, lora_name=entry))
    finally:
        for file in files:
            (tmp_path / file.name).rename(file)
    assert entry == "(no file in models/loras)"
    assert "Put a file there and press R" in said


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("FlashVideoEmptyLatent", {"size": "custom", "width": 1081}, "width 1081"),
        ("FlashVideoEmptyLatent", {"length": 50}, "50 frames"),
        ("FlashVideoAttentionWindows", {"width": 545, "height": 545}, "height 545"),
        ("FlashVideoUpscaleEncode", {"size": "custom", "height": 1081}, "height 1081"),
        ("FlashVideoRefineOneFrame", {"size": "custom", "height": 1081}, "height 1081"),
        ("FlashVideoRefineVideo", {"size": "custom", "height": 1081}, "height 1081"),
        ("FlashVideoStage1Sampler", {"exponent": 4.5}, "whole number"),
        ("FlashVideoStage1Guider", {"guidance_curve": "x"}, "expected one of"),
        ("FlashVideoParameterGrid", {"steps": "1, two"}, "whole numbers"),
    ],
)
def test_one_mistake_is_one_error(bench: Bench, kind: str, wrong: dict[str, Any], words: str) -> None:
    """Also where several inputs are looked at together."""
    stage1 = "Stage1" in kind
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    empty = bench.add("FlashVideoEmptyLatent", size="custom", width=48, height=32, length=5)
    clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
    sockets = {
        "vae": vae,
        "model": bench.add(f"FlashVideoLoadStage{1 if stage1 else 2}", model_name=STAGE1 if stage1 else STAGE2),
        "latent": empty,
        "image": bench.add("FlashVideoTiledDecode", latent=empty, vae=vae),
        "positive": bench.add("FlashVideoTextEncode", clip=clip, prompt="a", stage="Stage I"),
    }
    needed = bench.server.get(f"/object_info/{kind}")[kind]["input"]["required"]
    node = bench.add(kind, **{key: link for key, link in sockets.items() if key in needed}, **wrong)
    assert words in refused(bench, node)
