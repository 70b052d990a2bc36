"""Where models wait is chosen from what is free, by counted bytes; on a CPU nothing is chosen."""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace

import pytest
import torch

from flashvideo import FlashVideoPipeline
from flashvideo.cli import options
from flashvideo.loading.load import load_stage1, load_stage2, load_vae
from flashvideo.loading.model_store import ModelStore, find_models
from flashvideo.loading.text import encoding_bytes, load_text_encoder
from flashvideo.report.planning import published_parts
from flashvideo.runs.memory import Load
from flashvideo.runs.offloading import Part, choose_offload, plan_offload
from flashvideo.runs.settings import SIZES, Stage1Settings, Stage2Settings
from flashvideo.vae.tiling import memory
from tests.conftest import TINY
from tests.meta_device import Counted
from tests.unit.conftest import StoppedError

GB = 10**9
CARD = torch.device("cuda", 0)
WEIGHTS = 24.48  # GB, of all published models


@pytest.fixture
def free(monkeypatch):
    """``free(24, 64)``: GB of the device and of the host that are free."""

    def have(device, host):
        monkeypatch.setattr(memory, "free_on", lambda _: int(device * GB))
        monkeypatch.setattr(memory, "free_on_host", lambda: int(host * GB))

    return have


def whole(size):
    return Load(49, SIZES["270p"], SIZES[size], encodes=True)


@pytest.mark.parametrize(
    ("card", "host", "size", "offload"),
    [
        *[(24, 256, "270p", "cpu"), (32, 256, "270p", "none"), (24, 16, "270p", "disk"), (192, 16, "270p", "none")],
        *[(32, 256, "540p", "cpu"), (48, 256, "540p", "none")],
        *[(16, 64, "1080p", "cpu"), (48, 64, "1080p", "cpu"), (80, 64, "1080p", "none"), (48, 16, "1080p", "disk")],
        *[(24, 64, "4k", "disk"), (141, 256, "4k", "cpu"), (192, 16, "4k", "none")],
    ],
)
def test_models_stay_where_nothing_would_run_worse_for_it(free, card, host, size, offload):
    free(card, host)
    plan = plan_offload(published_parts(), whole(size), CARD)
    assert (plan.offload, plan.shortage) == (offload, "")


def test_the_reason_is_one_line(free):
    free(24, 64)
    assert plan_offload(published_parts(), whole("1080p"), CARD).reason == (
        "24 GB free on cuda:0: the models (24 GB) take turns there and wait in host memory"
    )
    free(24, 24)
    assert plan_offload(published_parts(), whole("1080p"), CARD).reason == (
        "24 GB free on cuda:0, 24 GB of host memory: the models (24 GB) take turns there, each loaded anew"
    )
    free(96, 64)
    assert plan_offload(published_parts(), whole("1080p"), CARD).reason == "96 GB free on cuda:0: all models stay there"


def test_where_host_memory_is_the_devices_nothing_waits_in_it(free):
    free(24, 256)
    assert plan_offload(published_parts(), whole("270p"), torch.device("mps")).offload == "disk"


def test_processes_of_a_machine_share_its_memory(free, monkeypatch):
    free(24, 60)
    assert plan_offload(published_parts(), whole("1080p"), CARD).offload == "cpu"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert plan_offload(published_parts(), whole("1080p"), CARD).offload == "disk"


@pytest.mark.parametrize(
    ("card", "size", "said"),
    [
        (8, "540p", "the text encoder needs 9.6 GB (9.5 GB of weights), 8.0 GB are free. No size fits: compute in"),
        (11.2, "540p", "Stage I needs 12 GB (11 GB of weights), 11 GB are free. Choose a smaller size or fewer frames"),
    ],
)
def test_what_does_not_fit_is_said(free, card, size, said):
    free(card, 64)
    assert plan_offload(published_parts(), whole(size), CARD).shortage.startswith(said)


def test_a_video_that_does_not_fit(free):
    free(8, 64)
    parts = {name: part for name, part in published_parts().items() if name in ("stage2", "vae")}
    assert plan_offload(parts, Load(49, None, SIZES["1080p"]), CARD).shortage == ""
    shortage = plan_offload(parts, Load(97, None, SIZES["4k"]), CARD).shortage
    assert shortage.startswith("Stage II needs 21 GB (3.4 GB of weights), 8.0 GB are free. Choose a smaller size")


# what is counted


@pytest.fixture(scope="module")
def models():
    return ModelStore(find_models(str(TINY), {}, ("stage1", "stage2", "vae", "text")), device=CARD)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_weights_are_those_that_will_be_loaded(models, dtype):
    store = ModelStore(models.paths, device=CARD, dtype=dtype)
    paths = models.paths
    loaded = {
        "stage1": load_stage1(paths.stage1, dtype=dtype),
        "stage2": load_stage2(paths.stage2, dtype=dtype),
        "vae": load_vae(paths.vae, dtype=dtype),
        "text": load_text_encoder(paths.text, dtype=dtype).model,
    }
    assert set(store.names) == set(loaded)
    for name, module in loaded.items():
        foreseen = Part(*store.meta(name))
        assert foreseen.weights == Part(module).weights == Part(module).bytes_on(torch.device("cpu"))
        assert foreseen.bytes_on(torch.device("cpu")) == 0
        assert foreseen.itemsize == Part(module).itemsize


def test_the_published_models_weigh_what_the_table_says():
    assert sum(part.weights for part in published_parts().values()) / GB == pytest.approx(WEIGHTS, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_encoding_a_prompt(dtype):
    part = published_parts()["text"]
    module = part.module if dtype == torch.bfloat16 else published_parts(dtype)["text"].module
    with torch.no_grad(), Counted() as counted:
        module(input_ids=torch.zeros(1, 226, dtype=torch.long, device="meta"))
    said = encoding_bytes(part.config, dtype.itemsize)
    assert counted.peak["computing"] <= said <= 1.6 * counted.peak["computing"]  # transformers 4.48 takes least


# who asks


def test_a_store_is_told(free, models):
    free(24, 64)
    store = ModelStore(models.paths, device=CARD)
    assert choose_offload(store, whole("270p")) == "24 GB free on cuda:0: all models stay there (--offload none)"
    free(0.01, 64)
    with pytest.raises(ValueError, match=r"49 frames of 480x256 do not fit on cuda:0: .* --offload cpu tries it all"):
        choose_offload(store, whole("270p"))


@pytest.mark.parametrize(("card", "full"), [(12.9, True), (10, False)])
def test_full_attention_is_named_where_it_fits_and_windows_do_not(free, card, full):
    """Windows of the trained size take 1.6 GB more at 4K."""
    free(card, 128)
    parts = {name: part for name, part in published_parts().items() if name in ("stage2", "vae")}
    store = SimpleNamespace(device=CARD, names=tuple(parts), meta=lambda name: (parts[name].module, parts[name].config))
    height, width = SIZES["4k"]
    load = Load(49, None, (height, width), encodes=True)
    with pytest.raises(ValueError, match="do not fit on cuda:0: Stage II needs 14 GB") as refused:
        choose_offload(store, load.with_windows(Stage2Settings(height=height, width=width)))
    assert (
        "Choose a smaller size or fewer frames; --attention full takes longer, and fits" in str(refused.value)
    ) == full


def test_nothing_is_chosen_on_a_cpu(models, monkeypatch):
    monkeypatch.setattr(memory, "free_on", lambda _: 1)
    store = ModelStore(models.paths, device="cpu")
    assert choose_offload(store, whole("4k")) == ""
    assert store.offload == "none"


@pytest.mark.parametrize(
    ("given", "offload", "line"),
    [
        ((), "none", "24 GB free on cuda:0: all models stay there (--offload none)"),
        (("--offload", "auto"), "none", "all models stay there (--offload none)"),
        (("--offload", "none"), "none", ""),
        (("--offload",), "cpu", ""),
        (("--offload", "disk"), "disk", ""),
    ],
)
def test_the_command_line_chooses_unless_it_is_told(generate, free, monkeypatch, tmp_path, given, offload, line):
    free(24, 64)
    seen = []

    def load(store, name):
        seen.append(store.offload)
        raise StoppedError

    monkeypatch.setattr(options, "pick_device", lambda _: CARD)
    monkeypatch.setattr(ModelStore, "_load", load)
    said = generate("a red ball", "-o", tmp_path / "out.mp4", *given, code=1)
    assert seen == [offload]
    assert (line in said.out) if line else "free on" not in said.out


def test_the_pipeline_chooses_for_every_call(free, caplog, monkeypatch, tiny_stage1, tiny_stage2, tiny_vae):
    text = load_text_encoder(TINY / "text")
    pipeline = FlashVideoPipeline(tiny_stage1, tiny_stage2, tiny_vae, text.model, text.tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.offload_to(CARD, only_if_needed=True) is pipeline
    places = []
    for name in ("stage1", "stage2", "vae", "text_encoder"):
        module = getattr(pipeline, name)
        monkeypatch.setattr(module, "to", lambda place, *_, n=name, **__: places.append((n, str(place))))
    small, large = Stage1Settings(height=32, width=32, num_frames=5), Stage2Settings(height=64, width=64)

    def call():
        places.clear()
        monkeypatch.setattr("flashvideo.runs.chain.embed_for_both", _stop)
        with pytest.raises(StoppedError):
            pipeline("a red ball rolls", stage1=small, stage2=large)

    free(24, 64)
    with caplog.at_level(logging.INFO):
        call()
    assert "24 GB free on cuda:0: all models stay there" in caplog.text
    assert pipeline._offload_device is None
    assert {name for name, place in places if place == "cuda:0"} == {"stage1", "stage2", "vae", "text_encoder"}
    for card in range(100, 300, 4):  # the smallest that takes it
        free(card / 1000, 64)
        with contextlib.suppress(ValueError):
            call()
            break
    assert "take turns there and wait in host memory" in caplog.text
    assert pipeline._offload_device == CARD
    assert all(place == "cpu" for _, place in places)
    free(0.001, 64)
    with pytest.raises(ValueError, match=r"do not fit on cuda:0: .*offload_to without only_if_needed tries it all"):
        pipeline("a red ball rolls", stage1=small, stage2=large)


def _stop(*_, **__):
    raise StoppedError
