"""Stopping between steps: a signal inside a step would leave weights, optimiser and averages at different steps."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType, TracebackType

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, Ctrl-C and SIGTERM set ``requested``; a second Ctrl-C ends the process at once.

    Args:
        copies_within: seconds in which a second Ctrl-C is taken for the first one, handed on by a launcher.
    """

    def __init__(self, copies_within: float = 0.0) -> None:
        self.requested = False
        self._copies_within = copies_within
        self._interrupted: float | None = None  # when the first Ctrl-C came

    def __enter__(self) -> StopRequest:
        heard = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup and & ask for
        if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
            heard = []
        self._before = {number: signal.signal(number, self._take) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted is not None and now - self._interrupted >= self._copies_within:
                raise KeyboardInterrupt
            self._interrupted = self._interrupted or now
        if not self.requested:
            log.warning("stopping after this step, with a checkpoint; Ctrl-C again stops at once, without one")
        self.requested = True
