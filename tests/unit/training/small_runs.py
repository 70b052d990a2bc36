"""Configurations of small training runs, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import TINY

STAGE1 = """
kind = "stage1"
vae = "{vae}"
{start}

[run]
seed = 5
learning_rate = 2e-3
max_grad_norm = 1.0
ema = 0.9
log_every = 1
save_every = 3

[datasets.clips]
source = "shapes"
height = 32
width = 48
frames = 5
count = 2
low = true
cache = "{cache}"
{more}

[[phases]]
steps = 4
batch_size = 2

[[phases]]
steps = 2
batch_size = 1
crop = [2, 4]
"""
NEW = """
[train_text]
d_model = 16
d_kv = 8
num_heads = 2
d_ff = 16
num_layers = 1

[model]
num_layers = 1
num_attention_heads = 1
time_embed_dim = 8
text_embed_dim = 16
"""


def write_config(
    folder: Path, text: str = STAGE1, more: str = "", start: str = "", tables: str = NEW, name: str = "run"
) -> Path:
    """A configuration of Stage I with small new models, on the tiny VAE; ``start`` and ``tables`` make others of it."""
    path = folder / f"{name}.toml"
    body = text.format(vae=TINY / "3d-vae.pt", cache=folder / f"cache-{name}", more=more, start=start)
    path.write_text(body + tables)
    return path


def changed(config: Path, old: str, new: str) -> Path:
    """The same file with one thing changed."""
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    return config


def read_log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "stage1.safetensors").read_bytes()
