"""A node that gives every socket of every FlashVideo node what other nodes should not give, and notes what is said."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from comfy_api.latest import io

import nodes as core

ZEROS = torch.zeros(1, 16, 1, 4, 4)
NAN = torch.full((1, 16, 1, 4, 4), float("nan"))
ANYTHING = {"text": "abc", "number": 7, "list": [], "object": object(), "dictionary": {}, "class": dict}
LATENTS = {
    "no samples": {"sample": ZEROS},
    "samples None": {"samples": None},
    "samples text": {"samples": "abc"},
    "samples list": {"samples": [ZEROS, ZEROS]},
    "list": [{"samples": ZEROS}],
    "nested": {"samples": torch.nested.nested_tensor([ZEROS[0], ZEROS[0, :, :, :2]])},
    "no batch": {"samples": ZEROS[0]},
    "picture": {"samples": ZEROS[:, :, 0]},
    "six dimensions": {"samples": ZEROS[None]},
    "scalar": {"samples": torch.tensor(1.0)},
    "four channels": {"samples": ZEROS[:, :4]},
    "no frames": {"samples": ZEROS[:, :, :0]},
    "no videos": {"samples": ZEROS[:0]},
    "whole numbers": {"samples": ZEROS.long()},
    "flags": {"samples": ZEROS.bool()},
    "complex": {"samples": ZEROS.to(torch.complex64)},
    "NaN": {"samples": NAN},
    "infinite": {"samples": ZEROS + float("inf")},
    "mask text": {"samples": ZEROS, "noise_mask": "abc"},
    "mask number": {"samples": ZEROS, "noise_mask": 1.0},
    "mask list": {"samples": ZEROS, "noise_mask": [ZEROS]},
    "mask scalar": {"samples": ZEROS, "noise_mask": torch.tensor(1.0)},
    "mask nothing": {"samples": ZEROS, "noise_mask": torch.zeros(0, 4, 4)},
    "index text": {"samples": ZEROS, "batch_index": "abc"},
    "index number": {"samples": ZEROS, "batch_index": 3},
    "index of more": {"samples": ZEROS, "batch_index": [0, 1]},
    "index of texts": {"samples": ZEROS, "batch_index": ["a"]},
    "noise step text": {"samples": ZEROS, "flashvideo_noise_step": "abc"},
    "noise step beyond": {"samples": ZEROS, "flashvideo_noise_step": 5000},
    "noise step None": {"samples": ZEROS, "flashvideo_noise_step": None},
    "noise step NaN": {"samples": ZEROS, "flashvideo_noise_step": float("nan")},
}
PICTURE = torch.zeros(1, 8, 8, 3)
IMAGES = {
    "latent": {"samples": ZEROS},
    "list": [PICTURE],
    "one picture": PICTURE[0],
    "video": PICTURE[None],
    "no frames": PICTURE[:0],
    "grey": PICTURE[..., :1],
    "no colours": PICTURE[..., :0],
    "bytes": PICTURE.to(torch.uint8),
    "nested": torch.nested.nested_tensor([PICTURE[0], PICTURE[0]]),
}
EMBEDS = torch.zeros(1, 226, 32)
CONDITIONINGS = {
    "tensor": EMBEDS,
    "no pairs": [EMBEDS],
    "one of a pair": [[EMBEDS]],
    "three of a pair": [[EMBEDS, {}, {}]],
    "embeds None": [[None, {}]],
    "text": [["abc", {}]],
    "no dictionary": [[EMBEDS, None]],
    "no batch": [[EMBEDS[0], {}]],
    "whole numbers": [[EMBEDS.long(), {}]],
    "NaN": [[EMBEDS + float("nan"), {}]],
    "second": [[EMBEDS, {}], [None, {}]],
}
SOUND = torch.zeros(1, 2, 100)
AUDIOS = {
    "no rate": {"waveform": SOUND},
    "no waveform": {"sample_rate": 44100},
    "waveform text": {"waveform": "abc", "sample_rate": 44100},
    "two dimensions": {"waveform": SOUND[0], "sample_rate": 44100},
    "rate text": {"waveform": SOUND, "sample_rate": "44100"},
    "rate 0": {"waveform": SOUND, "sample_rate": 0},
    "rate flag": {"waveform": SOUND, "sample_rate": True},
}
MALFORMED: dict[str, dict[str, Any]] = {
    "LATENT": {**ANYTHING, **LATENTS},
    "IMAGE": {**ANYTHING, **IMAGES},
    "CONDITIONING": {**ANYTHING, **CONDITIONINGS},
    "AUDIO": {**ANYTHING, **AUDIOS},
    "VIDEO": {**ANYTHING, "image": PICTURE},
    "IMAGE,VIDEO": {**ANYTHING, **IMAGES},
    "MODEL": {**ANYTHING, "image": PICTURE},
    "CLIP": {**ANYTHING, "image": PICTURE},
}
ODD_NUMBERS = {
    "text": "abc",
    "list": [],
    "object": object(),
    "NaN": float("nan"),
    "infinite": float("inf"),
    "flag": True,
}
WIDGETS: dict[str, dict[str, Any]] = {
    "INT": {**ODD_NUMBERS, "fraction": 0.5},
    "FLOAT": ODD_NUMBERS,
    "COMBO": {**ANYTHING, "option": "none of these", "tensor": PICTURE},
    "STRING": {name: value for name, value in ANYTHING.items() if name != "text"},
}


class ProbeMalformed(io.ComfyNode):
    """``said``: (node, socket, its type, what came, kind of the exception, its text), for all nodes of the pack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(node_id="ProbeMalformed", category="test", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        said = []
        for name, node in sorted(core.NODE_CLASS_MAPPINGS.items()):
            if not name.startswith("FlashVideo"):
                continue
            for entry in node.define_schema().inputs:
                kind = entry.get_io_type()
                for what, value in (MALFORMED | WIDGETS).get(kind, {}).items():
                    said.append([name, entry.id, kind, what, *outcome(node, entry.id, value)])
                if kind in MALFORMED.keys() - {"CLIP"} and not entry.optional and not getattr(entry, "lazy", False):
                    said.append([name, entry.id, kind, "None", *outcome(node, entry.id, None)])
                if kind in WIDGETS and not entry.optional:
                    said.append([name, entry.id, kind, "nothing", *outcome(node, entry.id, None)])
        return io.NodeOutput(ui={"said": [json.dumps(said)]})


def outcome(node: Any, socket: str, value: Any) -> tuple[str, str]:
    """(kind of the exception, its text) of a node that got one value and nothing else."""
    try:
        node.execute(**{socket: value})
    except Exception:
        kind, error, _ = sys.exc_info()
        return kind.__name__ if kind else "", str(error)
    return "", "it ran"
