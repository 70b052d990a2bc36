"""Files that options of several commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flashvideo.loading.lora import save_lora
from flashvideo.video.files import write_image
from tests.conftest import TINY
from tests.unit.cli.watching import FILES, PROMPT
from tests.unit.vae.draft_files import save_decoder


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the models, each under another name and all in a folder, a LoRA, a mask and a file of prompts."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "models").mkdir()
    save_decoder(folder / "models" / "taecvx.safetensors")
    (folder / "other-taecvx.safetensors").symlink_to(folder / "models" / "taecvx.safetensors")
    for name in FILES.values():
        (folder / "models" / name).symlink_to(TINY / name)
        (folder / f"other-{name}").symlink_to(TINY / name)
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(4, 128, generator=generator), torch.randn(128, 4, generator=generator)
    save_lora({"layers.0.attn_out": pair}, folder / "lora.safetensors")
    (folder / "prompts.txt").write_text(PROMPT)
    write_image(folder / "mask.png", torch.ones(3, 16, 16).triu())
    (folder / "other-prompts.txt").write_text("it snows")
    (folder / "names.txt").write_text("its name")
    return folder
