"""The published files: what each part of FlashVideo is called, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A file that a part is published in.

    Attributes:
        repository: at its host.
        folder: of ComfyUI's ``models``, where its loaders look for it.
        host: of the repository.
        place: of the file in it.
    """

    name: str
    repository: str
    folder: str
    host: str = "https://huggingface.co"
    place: str = "resolve/main"

    @property
    def page(self) -> str:
        """Address of the repository, for people."""
        return f"{self.host}/{self.repository}"

    @property
    def url(self) -> str:
        """Address of the file itself."""
        return f"{self.page}/{self.place}/{self.name}"


_AUTHORS = "FoundationVision/FlashVideo"
PUBLISHED = {
    "stage1": PublishedFile("stage1.pt", _AUTHORS, "diffusion_models"),
    "stage2": PublishedFile("stage2.pt", _AUTHORS, "diffusion_models"),
    "vae": PublishedFile("3d-vae.pt", _AUTHORS, "vae"),
    "text": PublishedFile("t5xxl_fp16.safetensors", "comfyanonymous/flux_text_encoders", "text_encoders"),
}
DRAFT = PublishedFile(  # a quick look, which no run needs
    "taecvx.safetensors", "madebyollin/taehv", "vae_approx", "https://github.com", "raw/main/safetensors"
)
