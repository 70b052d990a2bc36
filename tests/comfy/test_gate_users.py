"""The gate of a server for several people (``--multi-user``): each has a store of their own."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.conftest import Bench
from tests.comfy.golden_models import VAE, add_golden_models
from tests.comfy.server import ComfyServer, RejectedError, find_comfyui

STORE = "/flashvideo/previews"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    comfyui = find_comfyui()
    assert comfyui is not None
    probes = Path(__file__).parent / "probe_nodes"
    server = ComfyServer(comfyui, tmp_path_factory.mktemp("comfyui-users"), [probes], ["--multi-user"])
    add_golden_models(server)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def signed_in(server: ComfyServer, user: str) -> Iterator[None]:
    before = server.headers
    server.headers = {**before, **({"Comfy-User": user} if user else {})}
    try:
        yield
    finally:
        server.headers = before


def test_each_user_has_a_store(shared: ComfyServer, tmp_path: Path, latents: Any) -> None:
    ann, ben = (str(shared.post("/users", {"username": name})) for name in ("Ann", "Ben"))
    bench = Bench(shared, tmp_path)
    vae = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    gate = bench.add("FlashVideoPreviewGate", latent=bench.latent(latents(1, 16, 1, 4, 4)), vae=vae)
    with signed_in(shared, ann):
        shown = bench.run().outputs[gate[0]]["flashvideo_gate"][0]
    video = shown["previews"][0]["video"]
    assert shared.request(video)[4:8] == b"ftyp", "a player sends no headers: the address names the user"
    for user, size in ((ann, True), (ben, False), ("", False)):
        with signed_in(shared, user):
            assert (shared.get(STORE)["bytes"] > 0) == size
    with signed_in(shared, ben):
        assert shared.post(f"{STORE}/empty", {})["bytes"] == 0
        shared.post(f"{STORE}/limit", {"megabytes": 7})
        again = bench.run()
        assert ben in again.outputs[gate[0]]["flashvideo_gate"][0]["previews"][0]["video"], "made for Ben, not kept"
        assert shared.get(STORE)["bytes"] > 0
    with signed_in(shared, ann):
        state = shared.get(STORE)
        assert state["bytes"] > 0
        assert state["limit_megabytes"] == 8192
        assert len(shared.get(f"{STORE}/{shown['signature']}")["previews"]) == 1


@pytest.mark.parametrize("user", ["nobody", "../ann", "__flashvideo"])
def test_an_unknown_user_is_refused_in_words(shared: ComfyServer, user: str) -> None:
    with signed_in(shared, user):
        for path, body in ((STORE, None), (f"{STORE}/{'0' * 32}", None), (f"{STORE}/empty", {})):
            with pytest.raises(urllib.error.HTTPError) as error:
                shared.request(path, body)
            assert error.value.code == 400
            assert "ComfyUI has no user" in json.loads(error.value.read())["error"]
        with pytest.raises(RejectedError, match="has no user"):
            shared.queue({"1": {"class_type": "FlashVideoLoadVAE", "inputs": {"vae_name": VAE}}})


def test_a_server_for_one_takes_no_notice_of_names(server: ComfyServer) -> None:
    with signed_in(server, "nobody"):
        assert server.get(STORE)["limit_megabytes"] == 8192
