"""Preview Gate: look at Stage I's videos first, then pay for Stage II."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
import torch.nn.functional as F
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...flashvideo.video.files import write_video
from ..host.codec import require_vae
from ..kept.signature import ancestors, content_mark, signature
from ..kept.store import is_hash
from ..kept.users import kept_store, running_user
from ..shared.widgets import VIDEO, setting_input
from ..shared.wiring import FRAMES_KEY, require_latents
from .routes import described, gate_store, tell_editors
from .store import Batch, Sample, split_batch

NEVER, ALWAYS = "never", "always"
_PREVIEW_SIDE = 480  # pixels of the longer side of a preview; Stage I's own size
_PREVIEW_CRF = 18


def preview_of(vae: Any, latent: dict[str, Any]) -> Tensor:
    """A sample's small video ``[3, F, H, W]`` in 0..1, sides even."""
    frames = vae.decode(latent["samples"])
    frames = frames.reshape(-1, *frames.shape[-3:]).movedim(-1, 1).float().cpu()
    frames = frames[: latent.get(FRAMES_KEY, len(frames))]
    height, width = frames.shape[-2:]
    shrink = min(1.0, _PREVIEW_SIDE / max(height, width))
    size = [max(2, round(side * shrink / 2) * 2) for side in (height, width)]
    if size != [height, width]:
        frames = F.interpolate(frames, size=size, mode="area")
    return frames.clamp(0, 1).movedim(1, 0)


def with_previews(batch: Batch, vae: Any, key: str, fps: float) -> Batch:
    """Decode a batch's samples into previews, beside their latents in the store."""
    store, samples = gate_store(running_user()), []
    bar = comfy.utils.ProgressBar(len(batch.samples))
    for name in batch.hashes:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latent = store.latent(batch.signature, name)
        if latent is None:
            raise ValueError("A preview vanished from the store while it was used. Queue the workflow again.")
        video = preview_of(vae, latent)
        write_video(store.preview(batch.signature, name, key), video, fps, _PREVIEW_CRF, overwrite=True)
        samples.append(Sample(name, frames=video.shape[1], width=video.shape[3], height=video.shape[2]))
        bar.update(1)
    finished = Batch(batch.signature, tuple(samples), key, fps)
    store.write(finished)
    return finished


class PreviewGate(io.ComfyNode):
    """Shows a batch of previews and lets one of them through when it is approved."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlashVideoPreviewGate",
            display_name="FlashVideo Preview Gate",
            category="FlashVideo",
            description="Shows each video of a batch and stops there. Press Refine on one, and only that one goes on; "
            "Stage I is not run again, not even after a restart.",
            search_aliases=["flashvideo", "preview", "approve", "choose", "pause", "stop", "image chooser", "pick"],
            inputs=[
                io.Latent.Input("latent", lazy=True, tooltip="Stage I's latent, a batch of one preview or more."),
                io.Vae.Input("vae", lazy=True, tooltip="Decodes the previews."),
                io.String.Input(
                    "approve",
                    default=NEVER,
                    tooltip="For API runs; in the editor press Refine. never: stop here. always: let the first one "
                    "through. A preview's hash (32 digits, in the node's output): let that one through, if it is "
                    "among these.",
                    advanced=True,
                    optional=True,
                ),
                setting_input(  # whole rates do for the pictures in the node
                    VIDEO["fps"],
                    low=1,
                    high=120,
                    step=1,
                    tooltip="Frames a second of the previews; FlashVideo was trained on 8.",
                    advanced=True,
                    optional=True,
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The approved sample alone, or nothing.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, approve: Any = NEVER) -> bool | str:
        if approve is None or approve in (NEVER, ALWAYS) or is_hash(str(approve)):
            return True
        return f"approve is {approve!r}; expected never, always, or a preview's hash of 32 digits 0-9 a-f."

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[Any]:
        """ComfyUI's cache must not show previews that are not in the store any more, or in another user's."""
        user = running_user()
        return [user, kept_store(user).generation]

    @classmethod
    def made_from(cls, fps: float) -> tuple[str, str, list[Any]]:
        """Signature of the latents, key of their previews, and the latent's link."""
        lookup = cls.hidden.dynprompt.get_node
        inputs = lookup(cls.hidden.unique_id)["inputs"]
        latents = signature(inputs["latent"], lookup, content_mark)
        key = signature(f"{signature(inputs['vae'], lookup, content_mark)} at {float(fps)}", lookup)
        return latents, key, inputs["latent"]

    @classmethod
    def check_lazy_status(
        cls, approve: str = NEVER, fps: float = 8.0, latent: Any = None, vae: Any = None
    ) -> list[str]:
        """Stage I is asked for only if the store lacks what is wanted, the VAE only to make previews.

        Raises:
            ValueError: the VAE is of another kind, before Stage I has run.
        """
        name, key, _ = cls.made_from(fps)
        store = gate_store(running_user())
        batch = store.batch(name)
        if batch is not None and approve in batch.hashes and store.latent(name, approve) is not None:
            return []
        if batch is None or not store.has_latents(batch):
            if vae is not None:
                require_vae(vae)
                return ["latent"]
            return ["vae"]
        return [] if approve == ALWAYS or store.has_previews(batch, key) else ["vae"]

    @classmethod
    def execute(cls, latent: Any = None, vae: Any = None, approve: str = NEVER, fps: float = 8.0) -> io.NodeOutput:
        name, key, link = cls.made_from(fps)
        user = running_user()
        store = gate_store(user)
        batch = store.batch(name)
        chosen = store.latent(name, approve) if batch is not None and approve in batch.hashes else None
        if chosen is None and (batch is None or not store.has_latents(batch)):
            require_vae(vae)
            require_latents(latent)
            batch = store.add(name, split_batch(latent))
        assert batch is not None
        if vae is not None and not store.has_previews(batch, key):
            require_vae(vae)
            batch = with_previews(batch, vae, key, fps)
            tell_editors()
        store.kept.touch(name)
        if approve == ALWAYS:
            approve = batch.hashes[0]
        if chosen is None and approve in batch.hashes:
            chosen = store.latent(name, approve)
        shown = {
            "signature": name,
            "node": cls.hidden.unique_id,
            "link": link,
            "ancestors": ancestors(link, cls.hidden.dynprompt.get_node),
            "approved": approve if chosen is not None else "",
            "stale": chosen is None and approve != NEVER,
            "fps": batch.fps,
            "previews": described(batch, user),
        }
        return io.NodeOutput(cls._output(chosen), ui={"flashvideo_gate": [shown]})

    @staticmethod
    def _output(chosen: dict[str, Any] | None) -> Any:
        """The approved LATENT. One blocker for the one output: a bare one breaks the prompt in ComfyUI 0.33."""
        if chosen is None:
            return ExecutionBlocker(None)
        samples: torch.Tensor = chosen["samples"].to(comfy.model_management.intermediate_device())
        return {**chosen, "samples": samples}


NODES = [PreviewGate]
