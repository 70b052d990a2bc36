"""Preview Gate on a real server: what runs, what is let through, and what survives."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.comfy.conftest import Bench, saved, saved_keys
from tests.comfy.golden_models import STAGE1, TEXT, VAE
from tests.comfy.server import ComfyServer, RejectedError, Run
from tests.comfy.websocket import BINARY, WebSocket

STALE = "0" * 32


class Gated:
    """Stage I, the gate and something after it; node ids as attributes."""

    def __init__(self, bench: Bench, seed: int, batch: int = 2, steps: int = 2) -> None:
        self.bench = bench
        clip = bench.add("FlashVideoLoadTextEncoder", text_encoder_name=TEXT)
        prompt = bench.add("FlashVideoTextEncode", clip=clip, prompt="a red boat")
        model = bench.add("FlashVideoLoadStage1", model_name=STAGE1)
        empty = bench.add("FlashVideoEmptyLatent", size="custom", width=48, height=32, length=5, batch_size=batch)
        stage1 = bench.add(
            "FlashVideoStage1Sampler", model=model, positive=prompt, latent=empty, seed=seed, steps=steps
        )
        vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
        gate = bench.add("FlashVideoPreviewGate", latent=stage1, vae=vae, approve="never")
        self.out = bench.save(gate)
        self.stage1, self.gate, self.vae, self.model = stage1[0], gate[0], vae[0], model[0]

    @property
    def nodes(self) -> dict[str, Any]:
        return self.bench.graph.nodes

    def run(self, approve: str = "never") -> Run:
        self.nodes[self.gate]["inputs"]["approve"] = approve
        self.out.unlink(missing_ok=True)
        return self.bench.run()

    def shown(self, run: Run) -> dict[str, Any]:
        return dict(run.outputs[self.gate]["flashvideo_gate"][0])

    def hashes(self, run: Run) -> list[str]:
        return [preview["hash"] for preview in self.shown(run)["previews"]]


@pytest.fixture
def gated(bench: Bench, request: pytest.FixtureRequest) -> Gated:
    """A gate whose previews no other test has made."""
    bench.server.post("/flashvideo/previews/empty", {})
    return Gated(bench, seed=abs(hash(request.node.name)) % 10**6)


def test_previews_are_shown_and_nothing_goes_on(gated: Gated) -> None:
    run = gated.run()
    shown = gated.shown(run)
    assert not gated.out.exists()
    assert (shown["approved"], shown["stale"]) == ("", False)
    assert [(p["frames"], p["width"], p["height"]) for p in shown["previews"]] == [(5, 48, 32)] * 2
    for preview in shown["previews"]:
        assert gated.bench.server.request(preview["video"])[4:8] == b"ftyp"
    assert gated.stage1 in shown["ancestors"]
    assert gated.gate not in shown["ancestors"]
    assert gated.vae not in shown["ancestors"]


def test_an_approved_preview_goes_on_alone_without_stage1(gated: Gated) -> None:
    hashes = gated.hashes(gated.run())
    run = gated.run(hashes[1])
    assert not {gated.stage1, gated.model} & set(run.executed)
    assert gated.shown(run)["approved"] == hashes[1]
    assert saved_keys(gated.out) == {}
    second = saved(gated.out)
    gated.nodes[gated.stage1]["inputs"]["seed"] += 1
    gated.run("always")
    assert torch.equal(second, saved(gated.out)), "sample k is what seed + k gives"


@pytest.mark.parametrize("approve", ["never", "always"])
def test_an_image_vae_is_refused_before_stage1_runs(gated: Gated, approve: str) -> None:
    image_vae = gated.bench.add("VAELoader", vae_name="pixel_space")
    gated.nodes[gated.gate]["inputs"] |= {"vae": image_vae, "approve": approve}
    run = gated.bench.server.run(gated.bench.graph)
    assert "The VAE is another kind of VAE" in run.message
    assert run.error["node_id"] == gated.gate
    assert gated.stage1 not in run.executed


def heard(listener: WebSocket) -> Iterator[str]:
    """Names of what the server says."""
    while True:
        kind, payload = listener.receive()
        if kind != BINARY:
            yield str(json.loads(payload)["type"])


def test_other_editors_hear_of_changes(gated: Gated) -> None:
    server = gated.bench.server
    listener = WebSocket("127.0.0.1", server.port, "/ws?clientId=another-tab", 60)
    try:
        said = heard(listener)
        assert next(said) == "status"
        for change in (
            gated.run,
            lambda: server.post("/flashvideo/previews/limit", {"megabytes": 8192}),
            lambda: server.post("/flashvideo/previews/empty", {}),
        ):
            change()
            assert "flashvideo.previews" in said
    finally:
        listener.close()


def other_workflow(server: ComfyServer, folder: Path, latent: torch.Tensor) -> None:
    bench = Bench(server, folder)
    bench.save(bench.latent(latent))
    bench.run()


@pytest.mark.parametrize("between", ["workflow", "free", "restart"])
def test_stage1_does_not_run_again(gated: Gated, tmp_path: Path, between: str) -> None:
    server = gated.bench.server
    first = gated.run()
    wanted = gated.hashes(first)[1]
    other = tmp_path / "other"
    other.mkdir()
    if between != "restart":
        other_workflow(server, other, torch.randn(1, 16, 2, 4, 4))
    if between == "free":
        server.free()
    if between == "restart":
        server.restart()
    again = gated.run()  # showing them again costs no sampling either
    assert gated.stage1 not in again.executed
    assert gated.hashes(again) == gated.hashes(first)
    run = gated.run(wanted)
    assert gated.stage1 not in run.executed
    assert gated.model not in run.executed
    assert gated.out.exists()


def test_a_stale_approval_lets_nothing_through(gated: Gated) -> None:
    old = gated.hashes(gated.run())
    gated.nodes[gated.stage1]["inputs"]["seed"] += 100
    run = gated.run(old[0])
    assert gated.stage1 in run.executed
    assert gated.shown(run)["stale"]
    assert not set(old) & set(gated.hashes(run))
    assert not gated.out.exists()
    gated.run(STALE)
    assert not gated.out.exists()


def test_always_lets_the_first_through(gated: Gated) -> None:
    run = gated.run("always")
    assert gated.shown(run)["approved"] == gated.hashes(run)[0]
    assert saved(gated.out).shape == (1, 16, 2, 4, 6)


def test_a_batch_loses_its_numbering(bench: Bench, latents: Any) -> None:
    """Core's RandomNoise would take ``batch_index`` for the number of the noise."""
    numbered = bench.latent(latents(2, 16, 2, 4, 6, seed=31), batch_index=[3, 7])
    gate = bench.add("FlashVideoPreviewGate", latent=numbered, vae=bench.add("ProbeVae"), approve="always")
    out = bench.save(gate)
    bench.run()
    assert saved(out).shape == (1, 16, 2, 4, 6)
    assert saved_keys(out) == {}


def test_the_numbers_of_nodes_do_not_matter(gated: Gated) -> None:
    first = gated.run()
    renamed = {f"9{name}": node for name, node in copy.deepcopy(gated.nodes).items()}
    for node in renamed.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                node["inputs"][key] = [f"9{value[0]}", value[1]]
    gated.bench.server.free()
    run = gated.bench.server.run(renamed)
    assert not run.error
    assert f"9{gated.stage1}" not in run.executed
    assert run.outputs[f"9{gated.gate}"]["flashvideo_gate"][0]["signature"] == gated.shown(first)["signature"]


def test_other_attention_windows_are_other_previews(gated: Gated) -> None:
    """The store has those of each, which come back without Stage I."""
    windows = gated.bench.add("FlashVideoAttentionWindows", model=[gated.model, 0], height=16)
    gated.nodes[gated.stage1]["inputs"]["model"] = windows
    shown = []
    for width in (16, 32, 16):
        gated.nodes[windows[0]]["inputs"]["width"] = width
        run = gated.run()
        shown.append({gated.shown(run)["signature"], *gated.hashes(run)})
    first, other, again = shown
    assert first == again
    assert not first & other
    assert gated.stage1 not in run.executed


def test_partial_run_of_the_gate_runs_nothing_else(gated: Gated) -> None:
    run = gated.bench.run(partial_execution_targets=[gated.gate])
    assert len(gated.hashes(run)) == 2
    assert not gated.out.exists()


def test_emptying_the_store_brings_stage1_back(gated: Gated) -> None:
    server = gated.bench.server
    first = gated.run()
    assert server.get("/flashvideo/previews")["bytes"] > 0
    assert server.post("/flashvideo/previews/empty", {})["bytes"] == 0
    with pytest.raises(urllib.error.HTTPError):
        server.get(f"/flashvideo/previews/{gated.shown(first)['signature']}")
    again = gated.run()
    assert gated.hashes(again) == gated.hashes(first)
    assert server.request(gated.shown(again)["previews"][0]["video"])


def test_a_damaged_latent_is_made_anew(gated: Gated) -> None:
    first = gated.run()
    shown = gated.shown(first)
    server = gated.bench.server
    folder = next((server.base / "user").rglob(shown["signature"]))
    file = folder / f"{shown['previews'][0]['hash']}.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\1\1")
    server.free()
    run = gated.run(shown["previews"][0]["hash"])
    assert gated.stage1 in run.executed
    assert gated.out.exists()


def test_the_store_keeps_its_limit(gated: Gated, tmp_path: Path) -> None:
    server = gated.bench.server
    server.post("/flashvideo/previews/limit", {"megabytes": 1})
    try:
        for k in range(3):
            bench = Bench(server, tmp_path)
            latent = bench.latent(torch.randn(1, 16, 1, 80, 80, generator=torch.Generator().manual_seed(k)))
            gate = bench.add("FlashVideoPreviewGate", latent=latent, vae=bench.add("ProbeVae"), approve="always")
            out = bench.save(gate)
            bench.run()
            assert saved(out).shape == (1, 16, 1, 80, 80)
        assert server.get("/flashvideo/previews")["bytes"] < 1 << 20
    finally:
        server.post("/flashvideo/previews/limit", {"megabytes": 8192})


@pytest.mark.parametrize("approve", ["yes", "ABCDEF" * 6, "../secret"])
def test_other_approvals_are_refused_in_words(gated: Gated, approve: str) -> None:
    gated.nodes[gated.gate]["inputs"]["approve"] = approve
    with pytest.raises(RejectedError) as error:
        gated.bench.server.queue(gated.bench.graph)
    assert "expected never, always" in error.value.details


@pytest.mark.parametrize("path", ["..%2f..", "0" * 31, "0" * 32 + "/x-y.mp4", "0" * 32])
def test_routes_give_nothing_else(server: ComfyServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        server.request(f"/flashvideo/previews/{path}")
    assert error.value.code == 404


def test_limits_are_checked(server: ComfyServer) -> None:
    for wrong in ({}, {"megabytes": 0}, {"megabytes": "many"}, []):
        with pytest.raises(urllib.error.HTTPError) as error:
            server.post("/flashvideo/previews/limit", wrong)
        assert error.value.code == 400


JSON = "application/json"
DEEP = b"[" * 100_000
WRONG_LIMITS = {
    "infinite": (b'{"megabytes": 1e400}', JSON),
    "no number": (b'{"megabytes": NaN}', JSON),
    "negative": (b'{"megabytes": -5}', JSON),
    "true": (b'{"megabytes": true}', JSON),
    "deep": (b'{"megabytes": ' + DEEP + b"}", JSON),
    "charset": (b'{"megabytes": 5}', f"{JSON}; charset=klingon"),
    "no text": (b'{"megabytes": 5}', f"{JSON}; charset=base64"),
    "bytes": (b"\xff\xfe", JSON),
    "nothing": (b"", JSON),
}


@pytest.mark.parametrize("body", WRONG_LIMITS)
def test_a_limit_that_is_none_is_the_askers_mistake(server: ComfyServer, body: str) -> None:
    content, kind = WRONG_LIMITS[body]
    address = f"http://127.0.0.1:{server.port}/flashvideo/previews/limit"
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(address, content, {"Content-Type": kind}), timeout=60)
    assert error.value.code == 400
    assert "expected" in json.loads(error.value.read())["error"]
    assert server.get("/flashvideo/previews")["limit_megabytes"] == 8192


def test_a_damaged_entry_is_made_anew(gated: Gated) -> None:
    """In words; whatever stands in the file."""
    server, shown = gated.bench.server, gated.shown(gated.run())
    address = f"/flashvideo/previews/{shown['signature']}"
    entry = next((server.base / "user").rglob(shown["signature"])) / "entry.json"
    good = json.loads(entry.read_text())
    other = [{**preview, "frames": "5"} for preview in good["previews"]]
    named = [{**preview, "hash": 5} for preview in good["previews"]]
    wrong: list[Any] = [5, "text", None, [], {}, {**good, "previews": 5}, {**good, "previews": []}]
    wrong += [{**good, "previews": other}, {**good, "previews": named}, {**good, "key": "../x"}, {**good, "fps": "x"}]
    wrong += [{**good, "fps": float("inf")}, {**good, "signature": STALE}, {**good, "more": 1}]
    for content in [b"", b"\xff", DEEP, *(json.dumps(data).encode() for data in wrong)]:
        entry.write_bytes(content)
        with pytest.raises(urllib.error.HTTPError) as error:
            server.request(address)
        assert (error.value.code, content[:80]) == (404, content[:80])
    assert f"a damaged batch of previews is ignored ({shown['signature']}: " in server.log()
    server.free()
    again = gated.run()
    assert gated.stage1 in again.executed
    assert gated.shown(again)["previews"] == shown["previews"]
    assert json.loads(entry.read_text()) == good


@pytest.mark.parametrize("content", [b"", b"\xff", b"1e400", b"-1", b"0", b"null", b'"9"', DEEP], ids=range(8))
def test_a_damaged_limit_is_the_default(gated: Gated, content: bytes) -> None:
    """It removes no previews."""
    server, shown = gated.bench.server, gated.shown(gated.run())
    folder = next((server.base / "user").rglob(shown["signature"])).parent
    try:
        (folder / "limit.json").write_bytes(content)
        assert server.get("/flashvideo/previews")["limit_megabytes"] == 8192
        assert "limit.json is damaged" in server.log()
        gated.nodes[gated.stage1]["inputs"]["seed"] += 1
        gated.run()
        assert server.request(shown["previews"][0]["video"])[4:8] == b"ftyp"
    finally:
        (folder / "limit.json").unlink()


def test_nodes_of_the_older_kind_may_be_ancestors(gated: Gated) -> None:
    """Core's own nodes are mostly of the V1 kind; they have no ``fingerprint_inputs``."""
    bench = gated.bench
    between = bench.add("LatentFromBatch", samples=[gated.stage1, 0], batch_index=1, length=1)
    gated.nodes[gated.gate]["inputs"]["latent"] = between
    hashes = gated.hashes(gated.run())
    assert len(hashes) == 1
    run = gated.run(hashes[0])
    assert not {gated.stage1, between[0]} & set(run.executed)
    assert gated.out.exists()
