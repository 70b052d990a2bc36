"""Reading and writing beside the work: one thread ahead of it, one behind it, each within a bound."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_END = object()
_LOOK = 0.1  # seconds between looks whether anybody still reads


def read_ahead(items: Iterable[T], most: int) -> Generator[T, None, None]:
    """The same items, read in a thread of their own, at most so many ahead. Closing it ends the thread.

    What reading raises is raised here, behind the items before it.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=most)
    closed = threading.Event()

    def put(item: Any) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=_LOOK)
            except queue.Full:
                continue
            return True
        return False

    def read() -> None:
        source: Any = None
        try:
            source = iter(items)  # which may raise, too
            for item in source:
                if not put((item, None)):
                    break
            else:
                put((_END, None))
        except BaseException as error:
            put((_END, error))
        finally:
            if (close := getattr(source, "close", None)) is not None:
                close()

    thread = threading.Thread(target=read, name="flashvideo-reading", daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
            del item
    finally:
        closed.set()
        thread.join()


class Behind:
    """Runs tasks one after the other in a thread of its own; a context manager.

    Whoever gives more than ``most`` waits. What a task raises is raised at a later call, or at the block's end; tasks
    behind it are not run. If the block ends with an exception, tasks that have not begun are dropped.
    """

    def __init__(self, most: int) -> None:
        self._most, self._left, self._failed = most, deque[Future[None]](), False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="flashvideo-writing")

    def __enter__(self) -> Behind:
        return self

    def do(self, task: Callable[[], None]) -> None:
        """Run a task when those before it are done."""
        while len(self._left) >= self._most:
            self._wait()
        self._left.append(self._pool.submit(self._run, task))

    def wait(self) -> None:
        """Until all tasks are done."""
        while self._left:
            self._wait()

    def _run(self, task: Callable[[], None]) -> None:
        if self._failed:  # what comes behind a gap is worth nothing
            return
        try:
            task()
        except BaseException:
            self._failed = True
            raise

    def _wait(self) -> None:
        try:
            self._left.popleft().result()
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        while self._left:
            self._left.popleft().cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._drop()
            self._pool.shutdown(wait=True)
