"""The published files: what each part of FlashVideo is called, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A file that a part is published in.

    Attributes:
        repository: on Hugging Face.
        folder: of ComfyUI's ``models``, where its loaders look for it.
    """

    name: str
    repository: str
    folder: str

    @property
    def page(self) -> str:
        """Address of the repository, for people."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def url(self) -> str:
        """Address of the file itself."""
        return f"{self.page}/resolve/main/{self.name}"


_AUTHORS = "FoundationVision/FlashVideo"
PUBLISHED = {
    "stage1": PublishedFile("stage1.pt", _AUTHORS, "diffusion_models"),
    "stage2": PublishedFile("stage2.pt", _AUTHORS, "diffusion_models"),
    "vae": PublishedFile("3d-vae.pt", _AUTHORS, "vae"),
    "text": PublishedFile("t5xxl_fp16.safetensors", "comfyanonymous/flux_text_encoders", "text_encoders"),
}
