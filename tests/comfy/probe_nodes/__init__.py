"""Nodes that only tests have: tensors in from a file, tensors out into a file."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import comfy.lora
import comfy.utils
import torch
from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import load_file, save_file

from .malformed import ProbeMalformed
from .media import NODES as MEDIA

_TENSOR = [io.String.Input("path"), io.String.Input("name")]


def _schema(node_id: str, inputs: list[Any], outputs: list[Any] | None = None) -> io.Schema:
    return io.Schema(node_id=node_id, category="test", inputs=inputs, outputs=outputs or [], is_output_node=not outputs)


def pack_module(name: str) -> ModuleType:
    """A module of the pack, under whatever name ComfyUI gave the pack."""
    return next(module for key, module in list(sys.modules.items()) if key.endswith(f"ComfyUI-FlashVideo.{name}"))


class ProbeLatent(io.ComfyNode):
    """A LATENT; ``extra`` is JSON for its other keys."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeLatent", [*_TENSOR, io.String.Input("extra", default="{}")], [io.Latent.Output()])

    @classmethod
    def execute(cls, path: str, name: str, extra: str = "{}") -> io.NodeOutput:
        return io.NodeOutput({"samples": load_file(path)[name], **json.loads(extra)})


class ProbeConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeConditioning", _TENSOR, [io.Conditioning.Output()])

    @classmethod
    def execute(cls, path: str, name: str) -> io.NodeOutput:
        return io.NodeOutput([[load_file(path)[name], {"pooled_output": None}]])


class _FixedNoise:
    seed = 0

    def __init__(self, noise: torch.Tensor) -> None:
        self.noise = noise

    def generate_noise(self, latent: Any) -> torch.Tensor:
        return self.noise


class ProbeNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeNoise", _TENSOR, [io.Noise.Output()])

    @classmethod
    def execute(cls, path: str, name: str) -> io.NodeOutput:
        return io.NodeOutput(_FixedNoise(load_file(path)[name]))


class ProbeStage1Solver(io.ComfyNode):
    """Stage I's solver with the draws of a file (``[draws, B, 16, T, h, w]``)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeStage1Solver", _TENSOR, [io.Sampler.Output()])

    @classmethod
    def execute(cls, path: str, name: str) -> io.NodeOutput:
        return io.NodeOutput(pack_module("nodes.host.stage1_sampling").Stage1Solver(list(load_file(path)[name])))


class ProbeSaveLatent(io.ComfyNode):
    """Samples into a safetensors file; the other keys as JSON in its header."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSaveLatent", [io.Latent.Input("latent"), io.String.Input("path")])

    @classmethod
    def execute(cls, latent: dict[str, Any], path: str) -> io.NodeOutput:
        others = {key: repr(value) for key, value in latent.items() if key != "samples"}
        save_file({"samples": latent["samples"].contiguous()}, path, {"others": json.dumps(others)})
        return io.NodeOutput()


class ProbeSaveConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSaveConditioning", [io.Conditioning.Input("conditioning"), io.String.Input("path")])

    @classmethod
    def execute(cls, conditioning: Any, path: str) -> io.NodeOutput:
        save_file({"embeds": conditioning[0][0].contiguous()}, path)
        return io.NodeOutput()


class ProbeSaveSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSaveSigmas", [io.Sigmas.Input("sigmas"), io.String.Input("path")])

    @classmethod
    def execute(cls, sigmas: torch.Tensor, path: str) -> io.NodeOutput:
        save_file({"sigmas": sigmas.contiguous()}, path)
        return io.NodeOutput()


class ProbeModules(io.ComfyNode):
    """Which of some modules are imported in the server."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeModules", [io.String.Input("names"), io.Int.Input("nonce")])

    @classmethod
    def execute(cls, names: str, nonce: int) -> io.NodeOutput:
        return io.NodeOutput(ui={"modules": [name for name in names.split() if name in sys.modules]})


class ProbeCompiled(io.ComfyNode):
    """How many graphs torch.compile has made in the server."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeCompiled", [io.Int.Input("nonce")])

    @classmethod
    def execute(cls, nonce: int) -> io.NodeOutput:
        from torch._dynamo.utils import counters

        return io.NodeOutput(ui={"graphs": [counters["stats"]["unique_graphs"]]})


def _weaker(attention: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return attention(*args, **kwargs) * 0.8


class ProbeEvaluations(io.ComfyNode):
    """A MODEL that appends a byte to a file for each of its evaluations, and takes its time for them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Model.Input("model"), io.String.Input("path")]
        return _schema("ProbeEvaluations", inputs, [io.Model.Output()])

    @classmethod
    def execute(cls, model: Any, path: str) -> io.NodeOutput:
        def counted(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            with Path(path).open("ab") as file:
                file.write(b".")
            time.sleep(0.1)
            result: torch.Tensor = executor(*args, **kwargs)
            return result

        patched = model.clone()
        patched.add_wrapper(WrappersMP.DIFFUSION_MODEL, counted)
        return io.NodeOutput(patched)


class ProbeAttention(io.ComfyNode):
    """Attention overridden as packs for other attention kernels do it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeAttention", [io.Model.Input("model")], [io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        patched = model.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = _weaker
        return io.NodeOutput(patched)


def _passed(arguments: dict[str, Any], more: dict[str, Any]) -> Any:
    return more["original_block"](arguments)


class ProbeBlocks(io.ComfyNode):
    """Every layer replaced by one that runs the original."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeBlocks", [io.Model.Input("model")], [io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        patched = model.clone()
        for index in range(len(model.model.diffusion_model.layers)):
            patched.set_model_patch_replace(_passed, "dit", "double_block", index)
        return io.NodeOutput(patched)


class ProbeCoreClip(io.ComfyNode):
    """What core's CLIPLoader (type cogvideox) makes of a T5 that is narrower than XXL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("path"), io.Int.Input("width"), io.Int.Input("heads")]
        return _schema("ProbeCoreClip", inputs, [io.Clip.Output()])

    @classmethod
    def execute(cls, path: str, width: int, heads: int) -> io.NodeOutput:
        import comfy.sd

        config = {"d_model": width, "d_kv": width // heads, "num_heads": heads}
        clip = comfy.sd.load_text_encoder_state_dicts(
            [load_file(path)], clip_type=comfy.sd.CLIPType.COGVIDEOX, model_options={"t5xxl_model_config": config}
        )
        return io.NodeOutput(clip)


class _OtherClip:
    """A text encoder of another family, as far as it is asked."""

    def tokenize(self, text: str, **_: Any) -> dict[str, Any]:
        return {"l": [[(1, 1.0)]]}


class ProbeOtherClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeOtherClip", [], [io.Clip.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_OtherClip())


class _OtherModel:
    """A MODEL of another family, as far as it is asked."""

    model = object()

    def clone(self) -> _OtherModel:
        return self


class ProbeOtherModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeOtherModel", [], [io.Model.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_OtherModel())


class ProbeSame(io.ComfyNode):
    """A MODEL passed on as a clone: what it feeds is not in the cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSame", [io.Model.Input("model")], [io.Model.Output()])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        return io.NodeOutput(model.clone())


class _LinearVae:
    """A VAE whose pixels are a linear map of its latents."""

    def __init__(self) -> None:
        with torch.device("meta"):  # only to be taken for a video VAE
            self.first_stage_model = AutoencoderKLCogVideoX(block_out_channels=(32,) * 4, layers_per_block=1)
        self.map = torch.randn(3, 16, generator=torch.Generator().manual_seed(1)) * 0.1

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.einsum("lc,bchw->blhw", torch.linalg.pinv(self.map), small - 0.5)[:, :, None]

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pixels = torch.einsum("cl,blthw->btchw", self.map, latents) + 0.5
        return pixels.repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(2, -1)


_VAE = _LinearVae()


class ProbeVae(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeVae", [], [io.Vae.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(_VAE)


class ProbeColours(io.ComfyNode):
    """How far the colour factors of a linear VAE are from its map, on latents that it can make."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeColours", [io.Vae.Input("vae")])

    @classmethod
    def execute(cls, vae: Any) -> io.NodeOutput:
        factors = pack_module("nodes.shared.live_picture").colour_factors(vae)
        latents = vae.encode(torch.rand(1, 64, 64, 3))[0, :, 0].flatten(1).T
        error = (latents @ factors.weight + factors.bias - latents @ vae.map.T - 0.5).abs().max()
        return io.NodeOutput(ui={"error": [float(error)]})


class ProbePatchedWeights(io.ComfyNode):
    """The weights that a MODEL's patches change, as ComfyUI changes them, into a safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbePatchedWeights", [io.Model.Input("model"), io.String.Input("path")])

    @classmethod
    def execute(cls, model: Any, path: str) -> io.NodeOutput:
        state = {}
        for key, patches in model.patches.items():
            weight = comfy.utils.get_attr(model.model, key).detach().float().clone()
            state[key] = comfy.lora.calculate_weight(patches, weight, key).contiguous()
        save_file(state, path)
        return io.NodeOutput()


class ProbeModel(io.ComfyNode):
    """What a MODEL is: classes, dtypes, patches, and whether a fresh copy can be made of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeModel", [io.Model.Input("model")])

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        network = model.model.diffusion_model
        copy = model.clone(disable_dynamic=True, force_deepcopy=True)
        same = all(torch.equal(a, b) for a, b in _pairs(network, copy.model.diffusion_model))
        facts = {
            "patcher": type(model).__name__,
            "layers": sorted({type(m).__module__ for m in network.modules() if not list(m.children())}),
            "dtypes": sorted({str(p.dtype) for p in network.parameters()}),
            "weights": sorted({type(p.data).__name__ for p in network.parameters()}),
            "patches": sorted(model.patches),
            "scale": model.model.latent_format.scale_factor,
            "copied": same,
            "estimate": model.model.memory_required([1, 16, 13, 134, 240]),
        }
        return io.NodeOutput(ui={"facts": [json.dumps(facts)]})


class ProbeEstimate(io.ComfyNode):
    """What a MODEL that samples 1080p says on a GPU that it takes, into a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeEstimate", [io.Model.Input("model"), io.String.Input("path")], [io.Model.Output()])

    @classmethod
    def execute(cls, model: Any, path: str) -> io.NodeOutput:
        def estimating(executor: Any, sampled: Any, *args: Any, **kwargs: Any) -> Any:
            with mock.patch("comfy.model_management.pytorch_attention_flash_attention", return_value=True):
                Path(path).write_text(json.dumps(sampled.model.memory_required([1, 16, 13, 134, 240])))
            return executor(sampled, *args, **kwargs)

        patched = model.clone()
        patched.add_wrapper(WrappersMP.PREPARE_SAMPLING, estimating)
        return io.NodeOutput(patched)


def _pairs(a: torch.nn.Module, b: torch.nn.Module) -> Any:
    others = dict(b.named_parameters())
    for name, parameter in a.named_parameters():
        yield _plain(parameter), _plain(others[name])


def _plain(parameter: torch.nn.Parameter) -> torch.Tensor:
    data = parameter.data
    return (data.dequantize() if hasattr(data, "dequantize") and type(data) is not torch.Tensor else data).float()


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            ProbeLatent,
            ProbeConditioning,
            ProbeNoise,
            ProbeStage1Solver,
            ProbeSaveLatent,
            ProbeSaveConditioning,
            ProbeSaveSigmas,
            ProbeModules,
            ProbeCompiled,
            ProbeModel,
            ProbeEstimate,
            ProbePatchedWeights,
            ProbeEvaluations,
            ProbeAttention,
            ProbeBlocks,
            ProbeCoreClip,
            ProbeOtherClip,
            ProbeOtherModel,
            ProbeSame,
            ProbeVae,
            ProbeColours,
            ProbeMalformed,
            *MEDIA,
        ]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
