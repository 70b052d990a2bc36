"""Threads beside the work: in order, within bounds, and every error comes through."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from flashvideo.runs.beside import Behind, read_ahead


def running() -> int:
    return sum(thread.name.startswith("flashvideo-") for thread in threading.enumerate())


def test_reading_is_ahead_within_its_bound():
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    items = read_ahead(source(), 3)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(read) <= 6
    assert list(items) == list(range(1, 50))
    assert not running()


def test_what_reading_raises_comes_behind_what_was_read():
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    items = read_ahead(source(), 3)
    assert next(items) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(items)
    assert not running()


def test_closing_ends_the_thread_and_the_source():
    ended = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            ended.append(True)

    items = read_ahead(source(), 2)
    next(items)
    items.close()
    assert ended == [True]
    assert not running()


def test_tasks_are_done_in_order():
    done: list[int] = []
    with Behind(2) as behind:
        for number in range(20):
            behind.do(lambda number=number: done.append(number))
    assert done == list(range(20))
    assert not running()


def test_no_task_behind_an_error_is_done():
    done: list[int] = []
    began = threading.Event()

    def fail() -> None:
        began.wait()
        raise OSError("full")

    def give() -> None:
        with Behind(3) as behind:
            behind.do(fail)
            behind.do(lambda: done.append(1))
            behind.do(lambda: done.append(2))
            began.set()
            for number in range(20):
                behind.do(lambda number=number: done.append(number))

    with pytest.raises(OSError, match="full"):
        give()
    assert done == []
    assert not running()


def test_what_cannot_be_read_at_all_is_raised_and_nobody_waits():
    raised: list[TypeError] = []

    def read() -> None:
        try:
            list(read_ahead(5, 2))  # type: ignore[arg-type]
        except TypeError as error:
            raised.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(timeout=30)
    assert "not iterable" in str(raised[0])
