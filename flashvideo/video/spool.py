"""Frames that wait on disk for whoever reads them next."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_FRAME_BYTES = 4  # of a value, fp32
_SHARE_OF_DISK = 0.5  # of what is free there: as much may a spool take
_READ_AT_ONCE = 8  # frames


class FrameSpool:
    """Frames in a nameless file, in the order in which they were made; the file goes with the object.

    Args:
        folder: where the file lies; made if it is not there.
        frame_shape: of a frame, such as ``(H, W, 3)``.

    Attributes:
        count: frames that are in it.
    """

    def __init__(self, folder: Path, frame_shape: tuple[int, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.frame_shape, self.count = frame_shape, 0
        self._file = tempfile.TemporaryFile(dir=folder, prefix="flashvideo-")  # noqa: SIM115 (open as long as this is)

    @classmethod
    def where_there_is_room(cls, folder: Path, frames: int, frame_shape: tuple[int, ...]) -> FrameSpool | None:
        """A spool; None where so many frames would take more than half of what is free, or nothing can be written."""
        size = frames * math.prod(frame_shape) * _FRAME_BYTES
        try:
            spool = cls(folder, frame_shape)
            return spool if size <= _SHARE_OF_DISK * shutil.disk_usage(folder).free else None
        except OSError as error:
            log.info("Decoded frames are not kept in %s (%s).", folder, error.strerror)
            return None

    def add(self, frames: Tensor) -> bool:
        """Append frames ``[f, *frame_shape]``; False if the disk took no more: the spool is of no use then."""
        try:
            self._file.write(frames.detach().to("cpu", torch.float32).contiguous().numpy().data)
        except OSError as error:
            log.info("Decoded frames are not kept (%s).", error.strerror)
            with contextlib.suppress(OSError):  # what could not be written cannot be on closing either
                self._file.close()
            return False
        self.count += len(frames)
        return True

    def read(self, stop: int) -> Iterator[Tensor]:
        """The frames before ``stop``, fp32, a few at a time."""
        for first in range(0, stop, _READ_AT_ONCE):
            frames = torch.empty(min(_READ_AT_ONCE, stop - first), *self.frame_shape)
            self._file.seek(first * math.prod(self.frame_shape) * _FRAME_BYTES)
            self._file.readinto(frames.numpy().data)
            yield frames
