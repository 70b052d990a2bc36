"""What a decode takes, what happens when that is not there, and that nothing stays behind."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from flashvideo.tensors import failures
from flashvideo.vae.codec import decode_latents, decode_stream, encode_video, estimate_decode, estimate_encode
from flashvideo.vae.limits import Limits
from flashvideo.vae.tiling.store import DryStore, Room, Store
from flashvideo.vae.tiling.walker import Tiler
from tests.live_bytes import live_bytes

ROOT = Path(__file__).parents[3]
COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
GB, GIB = 10**9, 2**30
LIMITS = [field.name for field in dataclasses.fields(Limits)]


@pytest.fixture(scope="module")
def vae(tiny_vae):
    return tiny_vae


@pytest.fixture(scope="module")
def full_vae():
    from diffusers import AutoencoderKLCogVideoX

    with torch.device("meta"):
        return AutoencoderKLCogVideoX().to(torch.bfloat16)


def latents_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def count_decode(vae, latents, tile):
    """Peak bytes of a streamed decode, and the forecast."""
    with live_bytes() as counted:
        for frames in decode_stream(vae, latents, Limits(tile)):
            del frames
    shape = latents.shape
    forecast = estimate_decode(vae, 4 * (shape[2] - 1) + 1, 8 * shape[3], 8 * shape[4], Limits(tile))
    assert counted.live == {"computing": 0, "stored": 0}
    return counted.peak, forecast


@pytest.mark.parametrize("tile", [False, (4, 6), 3])
def test_decode_forecast_is_what_is_counted(vae, tile):
    latents = latents_of(1, 16, 5, 8, 12)
    peak, forecast = count_decode(vae, latents, tile)
    frames = 2 * 9 * 64 * 96 * 3 * 4  # the finished chunk, and the decoder's output it is made from
    assert peak["stored"] == forecast.host_bytes
    assert peak["computing"] <= forecast.working_bytes + frames
    assert peak["computing"] >= 0.7 * (forecast.working_bytes - 2 * GB // 1000)


@pytest.mark.parametrize("tile", [False, (4, 6)])
def test_encode_forecast_is_what_is_counted(vae, tile):
    video = torch.rand(1, 3, 21, 64, 96)
    with live_bytes() as counted:
        encode_video(vae, video, tile=tile)
    forecast = estimate_encode(vae, 21, 64, 96, Limits(tile))
    assert counted.peak["stored"] == forecast.host_bytes
    assert 0.7 * (forecast.working_bytes - 2 * GB // 1000) <= counted.peak["computing"] <= forecast.working_bytes


def test_quarter_tiles_take_a_third_of_the_working_set(vae):
    latents = latents_of(1, 16, 3, 16, 24)
    untiled, _ = count_decode(vae, latents, False)
    quarters, _ = count_decode(vae, latents, (8, 12))
    assert quarters["computing"] <= 0.35 * untiled["computing"]


@pytest.mark.parametrize("estimate", [estimate_decode, estimate_encode])
@pytest.mark.parametrize(
    ("height", "width", "device_gb", "host_gib"), [(1072, 1920, 6, 32), (2160, 3840, 8, 64)], ids=["1080p", "4K"]
)
def test_large_videos_fit(full_vae, estimate, height, width, device_gb, host_gib):
    weights = sum(parameter.numel() * parameter.element_size() for parameter in full_vae.parameters())
    video = 49 * height * width * 3 * 4
    found = estimate(
        full_vae,
        49,
        height,
        width,
        Limits(
            memory_budget=device_gb * GB - weights - 512 * 2**20,
            host_budget=int((host_gib - 2.5) * GIB) - video,  # 1 GiB for pinned buffers, 1.5 for the process
            device="cuda:0",
        ),
    )
    assert found.device_bytes + weights + 512 * 2**20 <= device_gb * GB
    assert found.host_bytes + video + 1.5 * GIB <= host_gib * GIB
    assert (found.file_bytes == 0) == (height == 1072)


@pytest.mark.parametrize(("tile", "chosen", "gigabytes"), [(None, (23, 240), 36), (False, (134, 240), 58)])
def test_everything_on_the_device_where_it_fits(full_vae, tile, chosen, gigabytes):
    limits = Limits(tile, memory_budget=130 * GB, device="cuda:0")
    found = estimate_decode(full_vae, 49, 1072, 1920, limits)
    assert found.tile == chosen
    assert found.host_bytes == found.file_bytes == 0
    assert found.device_bytes < gigabytes * GB  # an H200 took 34.3 and 49.9
    assert estimate_decode(full_vae, 49, 256, 480, limits).tile == (32, 60)


def test_places_in_turn():
    store = DryStore(torch.device("cuda:0"), torch.float32, Room(device=1000, host=800))
    planes = [store.allocate(1, (10, 10), 1) for _ in range(6)]
    assert [plane.place for plane in planes] == ["device", "device", "host", "host", "file", "file"]
    assert store.allocate(1, (5, 5), 5, cache=True).place == "file"
    store.release(planes[0])
    assert store.allocate(1, (10, 10), 1).place == "device"


def test_spills_to_a_scratch_file_and_removes_it(vae, tmp_path, caplog):
    latents = latents_of(1, 16, 4, 4, 5)
    with caplog.at_level("INFO"):
        video = decode_latents(vae, latents, tile=2, host_budget=2_000_000, scratch=tmp_path)
    assert "scratch file" in caplog.text
    assert torch.equal(video, decode_latents(vae, latents, tile=2))
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_file_that_the_disk_has_no_room_for(vae, tmp_path, small_files):
    """It is told when the file is made: writing to the mapping would end the process (SIGBUS), without a word."""
    latents = latents_of(1, 16, 4, 4, 5)
    told = r"a scratch file of .* GiB cannot be made in .*: File too large\. Make room"
    with small_files(1000), pytest.raises(OSError, match=told):
        decode_latents(vae, latents, tile=2, host_budget=2_000_000, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are looked at as Linux shows them")
def test_a_scratch_file_has_its_room_from_the_start(tmp_path):
    store = Store(torch.device("cpu"), torch.float32, Room(host=0, scratch=tmp_path))
    plane = store.allocate(1, (256, 256), 4)
    assert plane.place == "file"
    everything = [handle for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink()]
    handles = [handle for handle in everything if str(tmp_path) in str(handle.readlink())]
    assert [handle.stat().st_blocks * 512 >= plane.bytes for handle in handles] == [True]
    assert list(tmp_path.iterdir()) == [], "it has no name, so that nobody has to remove it while it is mapped"
    plane.data.fill_(3)
    assert float(plane.data.sum()) == 3 * 256 * 256 * 4


class FailingCall:
    """A forward hook that raises at the given calls of any convolution."""

    def __init__(self, vae, error, *calls):
        self.error, self.calls, self.seen = error, set(calls), 0
        self.handles = [
            module.register_forward_pre_hook(self)
            for module in vae.decoder.modules()
            if isinstance(module, torch.nn.Conv3d | torch.nn.Conv2d)
        ]

    def __call__(self, module, args):
        self.seen += 1
        if self.seen in self.calls:
            raise self.error

    def remove(self):
        for handle in self.handles:
            handle.remove()


@pytest.mark.parametrize("calls", [(1,), (40,), (400,), (40, 41, 42, 300), (180, 500, 600)])
def test_out_of_memory_halves_the_tile_and_goes_on(vae, calls, caplog):
    latents = latents_of(1, 16, 5, 4, 6)
    expected = decode_latents(vae, latents, tile=False)
    error = torch.cuda.OutOfMemoryError("CUDA out of memory (on purpose)")
    failing = FailingCall(vae, error, *calls)
    try:
        video = decode_latents(vae, latents, tile=3)
    finally:
        failing.remove()
    smallest = FailingCall(vae, error)
    decode_latents(vae, latents, tile=1)
    smallest.remove()
    assert caplog.text.count("going on with") == len(calls)
    assert (video - expected).abs().max() < 1e-5
    assert failing.seen < smallest.seen + len(
        calls
    )  # never more calls than the smallest tiles: nothing was started over


def test_out_of_memory_with_the_smallest_tile_is_an_error(vae):
    failing = FailingCall(vae, torch.cuda.OutOfMemoryError("CUDA out of memory (on purpose)"), 50)
    latents = latents_of(1, 16, 3, 2, 2)
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            decode_latents(vae, latents, tile=1)
    finally:
        failing.remove()
    assert torch.equal(decode_latents(vae, latents, tile=1), decode_latents(vae, latents, tile=1))


@pytest.mark.parametrize("least", [1, 1 << 62])
def test_errors_with_several_reasons_halve_large_tiles_only(vae, least, monkeypatch, caplog):
    monkeypatch.setattr(failures, "LARGE", least)
    latents = latents_of(1, 16, 3, 4, 6)
    expected = decode_latents(vae, latents, tile=False)
    failing = FailingCall(vae, RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), 40)
    try:
        if least == 1:
            assert (decode_latents(vae, latents, tile=False) - expected).abs().max() < 1e-5
            assert "tiles of (4, 6) latents are too large here; going on with (4, 3)" in caplog.text
        else:
            with pytest.raises(RuntimeError, match="CUDNN_STATUS_NOT_SUPPORTED"):
                decode_latents(vae, latents, tile=False)
    finally:
        failing.remove()


def test_tiles_halve_to_one_latent():
    tiler = Tiler((5, 9), (5, 9))
    seen = [tiler.tile]
    while tiler.halve():
        seen.append(tiler.tile)
    assert seen == [(5, 9), (5, 5), (5, 3), (3, 3), (3, 2), (2, 2), (2, 1), (1, 1)]


@pytest.mark.parametrize("how", ["callback", "progress", "convolution", "closed"])
def test_interrupting_leaves_nothing_behind(vae, tmp_path, how):
    latents = latents_of(1, 16, 5, 3, 4)
    expected = decode_latents(vae, latents, tile=2)
    paddings = [m.padding for m in vae.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    options = {"tile": 2, "host_budget": 10**6, "scratch": tmp_path}

    def stop(*_):
        raise KeyboardInterrupt

    with live_bytes() as counted:
        if how == "closed":
            stream = decode_stream(vae, latents, Limits(**options))
            next(stream)
            stream.close()
            del stream
        else:
            failing = FailingCall(vae, KeyboardInterrupt(), *([333] if how == "convolution" else []))
            extra = {how: stop} if how != "convolution" else {}
            try:
                with pytest.raises(KeyboardInterrupt):
                    decode_latents(vae, latents, **options, **extra)
            finally:
                failing.remove()
            del failing
        gc.collect()
    assert counted.live == {"computing": 0, "stored": 0}
    assert list(tmp_path.iterdir()) == []
    assert paddings == [m.padding for m in vae.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert torch.equal(decode_latents(vae, latents, tile=2), expected)


def test_interrupting_an_encode(vae):
    video = torch.rand(1, 3, 21, 16, 24)
    expected = encode_video(vae, video, sample=False)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_video(vae, video, sample=False, callback=stop)
    assert torch.equal(encode_video(vae, video, sample=False), expected)


def test_callbacks_tell_where_it_is(vae):
    steps, work = [], []
    latents = latents_of(1, 16, 5, 2, 3)
    video = decode_latents(
        vae,
        latents,
        tile=2,
        callback=lambda step, total, frames: steps.append((step, total, frames.shape[2])),
        progress=lambda done, total: work.append((done, total)),
    )
    assert steps == [(1, 2, 9), (2, 2, 8)]
    assert video.shape[2] == 17
    assert [done for done, _ in work] == sorted(done for done, _ in work)
    assert work[-1][0] == work[-1][1]
    encoded = []
    encode_video(vae, video, callback=lambda step, total, latents: encoded.append((step, total, latents.shape[2])))
    assert encoded == [(1, 1, 5)]


def test_two_threads_may_share_a_vae(vae):
    latents = [latents_of(1, 16, 3, 2, 3, seed=seed) for seed in (1, 2)]
    expected = [decode_latents(vae, one, tile=1) for one in latents]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: decode_latents(vae, latents[i], tile=1)})) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in (0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.zeros(16, 3, 2, 2)}, "expected floating point"),
        (
            {"latents": torch.zeros(1, 8, 3, 2, 2)},
            r"\[1, 8, 3, 2, 2\]; expected floating point \[B, 16",
        ),
        ({"latents": torch.zeros(1, 16, 0, 2, 2)}, "expected floating point"),
        ({"tile": 0}, "at least one latent"),
        ({"tile": True}, "expected latents"),
        ({"tile": (1, 2, 3)}, "expected latents"),
        ({"memory_budget": -1}, "positive number"),
        ({"host_budget": "6GB"}, "positive number"),
        ({"method": "blend"}, "'exact' or 'authors'"),
        ({"scratch": "/no/such/folder"}, "does not exist"),
    ],
)
def test_bad_decodes_fail_at_once(vae, change, message):
    arguments = {"latents": torch.zeros(1, 16, 3, 2, 2)} | change
    limits = {name: arguments.pop(name) for name in LIMITS if name in arguments}
    with pytest.raises(ValueError, match=message):
        decode_stream(vae, arguments.pop("latents"), Limits(**limits), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": torch.zeros(1, 3, 8, 16, 16)}, "4n \\+ 1"),
        ({"video": torch.zeros(1, 3, 5, 20, 16)}, "multiples of 8"),
        ({"video": torch.zeros(1, 4, 5, 16, 16)}, "\\[B, 3, F, H, W\\]"),
        ({"video": torch.zeros(1, 3, 5, 16, 16, dtype=torch.uint8)}, "floating point"),
        ({"noise": torch.zeros(1, 16, 3, 2, 2)}, "noise has shape"),
    ],
)
def test_bad_encodes_fail_at_once(vae, change, message):
    arguments = {"video": torch.zeros(1, 3, 5, 16, 16)} | change
    with pytest.raises(ValueError, match=message):
        encode_video(vae, arguments.pop("video"), **arguments)


def test_strangers_are_refused(full_vae):
    with pytest.raises(ValueError, match="no 'decoder'"):
        decode_latents(torch.nn.Linear(2, 2), torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(ValueError, match="meta device"):
        decode_latents(full_vae, torch.zeros(1, 16, 1, 2, 2))


COMFY_SCRIPT = """
import json, sys, torch
sys.path[:0] = [{comfy!r}, {root!r}]
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX
from safetensors import safe_open
from flashvideo.checkpoints.vae_layout import infer_vae_config, published_vae_key_map
from flashvideo.tensors import failures
from flashvideo.vae.codec import decode_latents, encode_video
state = torch.load({root!r} + "/tests/weights/3d-vae.pt", weights_only=True)["state_dict"]
config = infer_vae_config({{name: tuple(tensor.shape) for name, tensor in state.items()}})
vae = AutoencoderKLCogVideoX(**{{k: config[k] for k in ("block_out_channels", "latent_channels", "layers_per_block")}})
vae.load_state_dict({{new: state[old] for new, old in published_vae_key_map(state).items()}})
data = safe_open({root!r} + "/tests/golden/vae.safetensors", framework="pt")
get = data.get_tensor
errors = []
for streamed in (False, True):
    for module in vae.modules():
        if hasattr(module, "comfy_cast_weights"):
            module.comfy_cast_weights = streamed
    with torch.inference_mode():
        for tile in (False, 1):
            video = decode_latents(vae, get("dec5.z"), tile=tile)[0].permute(1, 2, 3, 0) * 255
            errors.append((video - get("dec5.video_255")).abs().max().item())
            latents = encode_video(vae, get("enc49.x") / 2 + 0.5, noise=get("enc49split.noise"), tile=tile)
            errors.append(100 * (latents * 1.15258426 - get("enc49split.z_times_scale")).abs().max().item())
print(json.dumps({{"errors": errors, "diffusers": "diffusers" in sys.modules}}))
"""


def test_comfyui_vae_as_it_is():
    python = next(
        (p for p in (COMFYUI / ".venv/bin/python", COMFYUI / "venv/bin/python") if p.exists()), sys.executable
    )
    if not (COMFYUI / "comfy").is_dir():
        pytest.skip(f"no ComfyUI at {COMFYUI} (set COMFYUI_PATH)")
    script = COMFY_SCRIPT.format(comfy=str(COMFYUI), root=str(ROOT))
    done = subprocess.run([str(python), "-c", script], capture_output=True, text=True, timeout=300)
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"ComfyUI's packages are not installed for {python}: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert max(found["errors"]) < 2e-3
    assert found["diffusers"] is False


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("budget", [10**6, 10**8, 10**10])
def test_cuda_within_budget(vae, budget):
    import copy

    latents = latents_of(1, 16, 5, 12, 16)
    expected = decode_latents(vae, latents, tile=False)
    on_device = copy.deepcopy(vae).to("cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    video = decode_latents(on_device, latents, memory_budget=budget)
    taken = torch.cuda.max_memory_allocated() - before
    forecast = estimate_decode(on_device, 17, 96, 128, Limits(memory_budget=budget))
    assert (video - expected).abs().max() < 1e-3
    assert taken <= 1.1 * forecast.device_bytes
