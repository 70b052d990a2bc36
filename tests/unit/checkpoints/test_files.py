"""Files of weights: every storage form is read, what is damaged is named."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flashvideo.checkpoints.files import open_weights
from tests.conftest import TINY


def test_damaged_folder(tmp_path):
    shutil.copytree(TINY / "text", tmp_path / "text")
    (tmp_path / "text" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no JSON"):
        open_weights(tmp_path / "text")
    (tmp_path / "text" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(ValueError, match=r"lacks gone\.safetensors"):
        open_weights(tmp_path / "text")


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "a.pt").write_bytes(b"x")
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied"))
    )
    with pytest.raises(ValueError, match=r"cannot be read \(Permission denied\)"):
        open_weights(tmp_path / "a.pt")


def test_strange_storage_forms_are_read(tmp_path):
    """Views, shared storages, scalars, transposed tensors and parameters of an honest torch file."""
    base = torch.arange(24.0).view(4, 6)
    tree = {
        "module": {
            "view": base[1:3, ::2],
            "transposed": base.t(),
            "shared": base,
            "scalar": torch.tensor(3.0),
            "empty": torch.zeros(0, 4),
            "parameter": torch.nn.Parameter(torch.ones(3)),
            "half": torch.ones(5, dtype=torch.float16),
            "fp8": torch.ones(4).to(torch.float8_e4m3fn),
            "ints": torch.arange(3),
            "flags": torch.tensor([True, False]),
        }
    }
    torch.save(tree, tmp_path / "x.pt")
    weights = open_weights(tmp_path / "x.pt")
    for name, tensor in tree["module"].items():
        assert weights.tensors[name].dtype == tensor.dtype, name
        assert torch.equal(weights.tensors[name].read().float(), tensor.detach().float()), name


def test_folder_with_a_missing_shard(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-00002-of-00002"):
        open_weights(tmp_path)
