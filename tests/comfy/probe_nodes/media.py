"""Pictures and videos in from files, out into files, and what a VIDEO says of itself."""

from __future__ import annotations

import gc
import json
import shutil
import threading
from typing import Any

import comfy.ldm.cogvideo.vae
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from comfy_api.latest import io
from safetensors.torch import load_file, save_file

from nodes import NODE_CLASS_MAPPINGS


def _schema(node_id: str, inputs: list[Any], outputs: list[Any] | None = None) -> io.Schema:
    return io.Schema(node_id=node_id, category="test", inputs=inputs, outputs=outputs or [], is_output_node=not outputs)


class ProbeImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeImage", [io.String.Input("path"), io.String.Input("name")], [io.Image.Output()])

    @classmethod
    def execute(cls, path: str, name: str) -> io.NodeOutput:
        return io.NodeOutput(load_file(path)[name])


class ProbeAudio(io.ComfyNode):
    """Audio of a file's tensor ``[1, channels, samples]``."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.String.Input("path"), io.String.Input("name"), io.Int.Input("rate", default=16000, max=96000)]
        return _schema("ProbeAudio", inputs, [io.Audio.Output()])

    @classmethod
    def execute(cls, path: str, name: str, rate: int) -> io.NodeOutput:
        return io.NodeOutput({"waveform": load_file(path)[name], "sample_rate": rate})


class ProbeSaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSaveImage", [io.Image.Input("image"), io.String.Input("path")])

    @classmethod
    def execute(cls, image: torch.Tensor, path: str) -> io.NodeOutput:
        save_file({"image": image.contiguous()}, path)
        return io.NodeOutput()


class ProbeCoreVae(io.ComfyNode):
    """Core's own CogVideoX VAE with the weights of a VAE of the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeCoreVae", [io.Vae.Input("vae")], [io.Vae.Output()])

    @classmethod
    def execute(cls, vae: Any) -> io.NodeOutput:
        module = vae.first_stage_model
        widths = [block.resnets[0].conv1.conv.out_channels for block in module.encoder.down_blocks]
        layers = len(module.encoder.down_blocks[0].resnets)
        core = comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(block_out_channels=widths, layers_per_block=layers)
        core.load_state_dict(module.state_dict())
        made = comfy.sd.VAE(sd={})
        made.first_stage_model, made.device, made.vae_dtype = core, vae.device, torch.float32
        made.patcher = comfy.model_patcher.CoreModelPatcher(core, vae.device, vae.patcher.offload_device)
        return io.NodeOutput(made)


class ProbeVideo(io.ComfyNode):
    """What a VIDEO tells, without frames being made (``decoded`` counts chunks) and with them (``images``)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeVideo", [io.Video.Input("video"), io.String.Input("path", default="")])

    @classmethod
    def execute(cls, video: Any, path: str = "") -> io.NodeOutput:
        facts = {
            "size": video.get_dimensions(),
            "frames": video.get_frame_count(),
            "duration": video.get_duration(),
            "rate": str(video.get_frame_rate()),
            "depth": video.get_bit_depth(),
            "space": video.get_color_space(),
            "format": video.get_container_format(),
        }
        if path:
            parts = video.get_components()
            tensors = {"images": parts.images.contiguous()}
            if parts.audio is not None:
                tensors["audio"] = parts.audio["waveform"].contiguous()
            save_file(tensors, path)
        return io.NodeOutput(ui={"facts": [json.dumps(facts)]})


class ProbeSaveMemory(io.ComfyNode):
    """Saves a VIDEO and tells how many bytes of tensors there were meanwhile, beside those before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeSaveMemory", [io.Video.Input("video"), io.String.Input("path")])

    @classmethod
    def execute(cls, video: Any, path: str) -> io.NodeOutput:
        done, peak, before = threading.Event(), [0], tensor_bytes()

        def watch() -> None:
            while not done.wait(0.2):
                peak[0] = max(peak[0], tensor_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        video.save_to(path)
        done.set()
        watcher.join()
        return io.NodeOutput(ui={"grown": [max(0, peak[0] - before)]})


class ProbeReplace(io.ComfyNode):
    """Hands a VIDEO on, after a file was replaced by another one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [io.Video.Input("video"), io.String.Input("path"), io.String.Input("other")]
        return _schema("ProbeReplace", inputs, [io.Video.Output()])

    @classmethod
    def execute(cls, video: Any, path: str, other: str) -> io.NodeOutput:
        shutil.copyfile(other, path)
        return io.NodeOutput(video)


class ProbeDecodeWeights(io.ComfyNode):
    """Tiled VAE Decode: how many bytes of weights there are afterwards, beside those before."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema("ProbeDecodeWeights", [io.Latent.Input("latent"), io.Vae.Input("vae")])

    @classmethod
    def execute(cls, latent: Any, vae: Any) -> io.NodeOutput:
        before = tensor_bytes(torch.nn.Parameter)
        NODE_CLASS_MAPPINGS["FlashVideoTiledDecode"].execute(latent=latent, vae=vae)
        return io.NodeOutput(ui={"grown": [tensor_bytes(torch.nn.Parameter) - before]})


def tensor_bytes(kind: type = torch.Tensor) -> int:
    """Bytes of all tensors there are. (The process's size says little: freed memory is kept and used again.)"""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) is kind:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


NODES = [
    ProbeImage,
    ProbeAudio,
    ProbeSaveImage,
    ProbeCoreVae,
    ProbeVideo,
    ProbeSaveMemory,
    ProbeReplace,
    ProbeDecodeWeights,
]
