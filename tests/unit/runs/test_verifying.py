"""The certificate: right paths are within their limits, a broken one of each kind is over, absent ones say why."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from flashvideo.checkpoints.metadata import STAGES
from flashvideo.loading.source import TransformerSource
from flashvideo.models import network as networks
from flashvideo.models.windows import AttentionWindows, window_pattern
from flashvideo.runs.verifying import GROUPS, Certificate, check_groups, codecs, verify_paths
from flashvideo.runs.verifying.files import write_published
from flashvideo.runs.verifying.verdicts import EXACT, Limit, NotHereError, Path, judge, rounded
from flashvideo.tensors import fusing
from tests.conftest import TINY

ONE = torch.tensor([1.0, -2.0])
LOOSE = Limit(0.1, "a test")


def raising(error: Exception):
    def run() -> Tensor:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "limit", "status"),
    [
        (lambda: ONE.clone(), EXACT, "ok"),
        (lambda: ONE * (1 + 1e-6), EXACT, "over"),
        (lambda: ONE * 1.05, LOOSE, "ok"),
        (lambda: ONE * 1.2, LOOSE, "over"),
        (lambda: ONE * float("nan"), LOOSE, "over"),
        (lambda: ONE[None], LOOSE, "over"),
        (raising(NotHereError("no such card")), LOOSE, "not here"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), LOOSE, "not here"),
        (raising(RuntimeError("broken")), LOOSE, "failed"),
    ],
)
def test_what_is_found_is_judged(run, limit, status):
    verdict = judge("Stage I", Path("dtypes", "a path", run, limit), ONE)
    assert verdict.status == status
    assert verdict.ok == (status in ("ok", "not here"))
    certificate = Certificate((verdict,), {"device": "cpu"})
    assert certificate.ok == verdict.ok
    assert json.loads(json.dumps(certificate.to_dict(), allow_nan=False))["paths"][0]["status"] == status
    assert any(status in line and "a path" in line for line in certificate.lines())


def test_limits_grow_with_rounding_and_depth():
    halves = [rounded(dtype, 4).value for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    assert halves == sorted(halves)
    assert rounded(torch.bfloat16, 16).value == pytest.approx(2 * halves[-1])
    assert rounded(torch.float32, 4, tf32=True).value == halves[1]


def test_unknown_paths_are_refused():
    with pytest.raises(ValueError, match=r"paths are fast; expected some of files, dtypes"):
        check_groups(["fast"])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_published(tmp_path_factory.mktemp("models"))


def seen(certificate: Certificate) -> dict[str, str]:
    return {f"{verdict.part}, {verdict.path}": verdict.status for verdict in certificate.verdicts}


def test_every_kind_of_file(one_thread):
    with one_thread():
        found = seen(verify_paths(groups=frozenset(("files",))))
    assert set(found.values()) <= {"ok", "not here"}
    assert {name for name, status in found.items() if status == "not here"} <= {
        "Stage I, GGUF, Q8_0",
        "Stage II, GGUF, Q8_0",
    }
    assert len(found) == 20


def test_a_reader_that_scales_weights_is_over(monkeypatch, one_thread):
    read = TransformerSource.read
    monkeypatch.setattr(TransformerSource, "read", lambda *a, **k: read(*a, **k) * 1.001)
    monkeypatch.setattr("flashvideo.runs.verifying.files._vae_verdicts", lambda _: iter(()))
    with one_thread():
        found = seen(verify_paths(groups=frozenset(("files",))))
    assert found["Stage I, safetensors, fp32"] == found["Stage I, published .pt, LoRA unmerged"] == "over"


def test_paths_of_a_model_on_this_machine(models, one_thread):
    groups = frozenset(GROUPS) - {"files", "compiled", "offload"}
    with one_thread():
        certificate = verify_paths({name: models[name] for name in STAGES}, groups=groups)
    assert certificate.ok, "\n".join(certificate.lines())
    found = seen(certificate)
    assert found["Stage II, fp32 on cpu, flash attention"] == "ok"
    assert found["Stage II, fp32 on cpu, cuDNN attention"] == "not here"
    assert found["Stage I, fp16 on cpu"] == found["Stage II, time windows as a stream"] == "ok"


def test_models_that_wait_elsewhere(models, one_thread):
    """Of a network whose text is narrower than the random one's, too."""
    with one_thread():
        files = {"stage2": TINY / "stage2.pt", "vae": models["vae"]}
        assert set(seen(verify_paths(files, groups=frozenset(("offload",)))).values()) == {"ok"}


def test_a_shifted_window_is_over(models, monkeypatch, one_thread):
    def narrow(windows: AttentionWindows, *arguments, **more):
        return window_pattern(dataclasses.replace(windows, width=windows.width // 2), *arguments, **more)

    monkeypatch.setattr(networks, "window_pattern", narrow)
    with one_thread():
        found = seen(verify_paths({"stage1": models["stage1"]}, groups=frozenset(("windows",))))
    assert found == {"Stage I, attention windows of the frame": "over"}


def test_tiles_with_a_seam_are_over(models, monkeypatch, one_thread):
    decode = codecs.decode

    def seamed(vae, **limits):
        video = decode(vae, **limits)
        if limits.get("tile"):
            video[..., video.shape[-1] // 2] += 0.01
        return video

    monkeypatch.setitem(codecs.RUNS, "decode", (seamed, *codecs.RUNS["decode"][1:]))
    with one_thread():
        found = seen(verify_paths({"vae": models["vae"]}, groups=frozenset(("tiles", "windows"))))
    assert found == {
        "encode, fp32 on cpu, tiles": "ok",
        "decode, fp32 on cpu, tiles": "over",
        "decode, as a stream": "ok",
    }


def test_fused_kernels_can_be_left_out(monkeypatch):
    monkeypatch.setattr(fusing, "_failed", [])
    monkeypatch.setattr(fusing, "_installed", lambda: True)
    monkeypatch.setenv(fusing.SWITCH, "interpret")
    values = torch.zeros(1)
    assert fusing.available(values)
    with fusing.left_out():
        assert not fusing.available(values)
    assert fusing.available(values)
