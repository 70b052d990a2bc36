"""What no node should give, given to every socket of every node: refused in words that name the socket."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from tests.comfy.conftest import Bench
from tests.comfy.golden_models import STAGE2, VAE

SOCKETS = ("LATENT", "IMAGE", "IMAGE,VIDEO", "CONDITIONING", "AUDIO", "VIDEO", "MODEL", "CLIP")
WIDGETS = ("INT", "FLOAT", "COMBO", "STRING")
ZEROS = torch.zeros(1, 16, 1, 4, 4)


def test_every_socket_of_every_node(bench: Bench) -> None:
    node = bench.add("ProbeMalformed")
    said = json.loads(bench.run().outputs[node[0]]["said"][0])
    assert {kind for _, _, kind, *_ in said} == set(SOCKETS + WIDGETS)
    assert len(said) > 500
    wrong = [entry for entry in said if entry[4] != "ValueError" or not in_words(*entry)]
    assert not wrong, "\n".join(map(str, wrong))


def in_words(_node: str, socket: str, _kind: str, what: str, _error: str, text: str) -> bool:
    if what == "None":  # the others are not connected either
        return "is None: the node that is connected gave no " in text
    if what in ("noise step beyond", "noise step NaN"):
        return "expected a whole number from 0" in text
    return f"the {socket} " in text.lower()


@pytest.mark.parametrize(
    ("tensor", "extra", "said"),
    [
        (ZEROS + float("nan"), {}, "The latent has NaN or infinite values"),
        (ZEROS[:, :, 0], {}, "The latent is torch.float32 of shape [1, 16, 4, 4]"),
        (ZEROS, {"noise_mask": "abc"}, "The noise mask of the latent is a str"),
        (ZEROS, {"batch_index": 3}, "The batch_index of the latent is no list of 1 whole numbers"),
        (ZEROS, {"flashvideo_noise_step": "abc"}, "The flashvideo_noise_step of the latent is a str"),
    ],
)
@pytest.mark.parametrize("kind", ["FlashVideoPickPreview", "FlashVideoTiledDecode", "FlashVideoStage2Refiner"])
def test_through_a_graph(bench: Bench, tensor: Any, extra: dict[str, Any], said: str, kind: str) -> None:
    sockets: dict[str, Any] = {"latent": bench.latent(tensor, **extra)}
    if kind == "FlashVideoTiledDecode":
        sockets["vae"] = bench.add("FlashVideoLoadVAE", vae_name=VAE)
    if kind == "FlashVideoStage2Refiner":
        sockets["model"] = bench.add("FlashVideoLoadStage2", model_name=STAGE2)
        sockets["positive"] = bench.tensor("ProbeConditioning", torch.ones(1, 226, 32))
    bench.add("PreviewAny", source=bench.add(kind, **sockets))
    run = bench.server.run(bench.graph)
    assert run.error
    assert run.error["node_type"] == kind
    assert run.error["exception_type"] == "ValueError"
    assert said in run.message
