"""Stretches of videos refined by the workers of a Ray cluster, which share a folder.

Each worker is an actor that holds its models. Finished frames and latents lie in the folder beside the output, as those
of any run do: if a worker dies, another one goes on with its stretch from there, and so does a later run.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from .. import __version__
from ..checkpoints.locks import claimed, lock_of
from .chain import Progress
from .refining import Refiner
from .stretches import Task, VideoJob

log = logging.getLogger(__name__)

LOCAL = "local"  # Ray's word for a cluster of this machine alone, that ends with the run
_MARK = "workers"  # named so, a file lies in the outputs' folder as long as the run
_RESTARTS = 3  # of a worker that died
_TRIES = 4  # of a stretch whose worker died
_SECONDS_TO_CONNECT, _SECONDS_TO_JOIN = 10, 60
_LOOK = 0.5  # seconds between looks at what workers tell


@dataclass(frozen=True)
class Place:
    """What a worker tells of itself.

    Attributes:
        node: Ray's name of its machine.
        version: of FlashVideo.
        models: what its models are, for the record.
    """

    node: str
    version: str
    models: dict[str, str]


class Worker:
    """A process of the cluster that refines stretches. Ray makes it, and makes it again if it dies.

    Args:
        make: makes the refiner.
        folder: that relative paths start from, if it is there.
        threads: of torch.
        seen: files with their sizes in bytes, which it has to see.
        mark: a file in the outputs' folder, which it has to see.
    """

    def __init__(
        self, make: Callable[[], Refiner], folder: str, threads: int, seen: Sequence[tuple[Path, int]], mark: Path
    ) -> None:
        with suppress(OSError):
            os.chdir(folder)
        torch.set_num_threads(threads)
        self._make, self._seen, self._mark = make, seen, mark
        self._steps = 0

    def meet(self) -> Place:
        """Find out whether work can be done here.

        Raises:
            ValueError: files that are not seen here; models that do not load.
        """
        import ray

        host = socket.gethostname()
        for path, size in self._seen:
            if not path.is_file() or path.stat().st_size != size:
                raise _unseen(host, path)
        if not self._mark.exists():
            raise _unseen(host, self._mark.parent)
        try:
            models = self._refiner.models.describe()
        except ValueError as error:
            raise ValueError(f"The worker on {host}: {error}") from error
        return Place(ray.get_runtime_context().get_node_id(), __version__, models)

    @cached_property
    def _refiner(self) -> Refiner:
        return self._make()

    def fit(self, job: VideoJob, sharing: int) -> str:
        """See :meth:`Refiner.fit`; ``sharing`` is how many workers share the machine."""
        os.environ["LOCAL_WORLD_SIZE"] = str(sharing)
        return self._refiner.fit(job)

    def refine(self, task: Task, sharing: int) -> None:
        """See :meth:`Refiner.refine`, and above."""
        os.environ["LOCAL_WORLD_SIZE"] = str(sharing)
        self._steps = 0
        self._refiner.refine(task, self._tell)

    def steps(self) -> int:
        """Of Stage II, that the stretch in work has behind it."""
        return self._steps

    def _tell(self, what: str, done: int, _total: int) -> None:
        if what.startswith("Stage II"):
            self._steps = done


def _unseen(host: str, path: Path) -> ValueError:
    return ValueError(
        f"The worker on {host} does not see {path.absolute()} as it is here. Videos, models and the outputs' folder "
        "have to lie where this machine and all workers see them under one name: in a shared folder."
    )


@dataclass(frozen=True)
class _Given:
    """A task that a worker has, by the worker's number, and how often it was begun."""

    task: Task
    worker: int
    tries: int


class Cluster:
    """The workers of a cluster; :func:`open_cluster` makes it.

    Attributes:
        models: what their models are, for the record.

    Raises:
        ValueError: a worker that cannot work, or has other models than the others.
    """

    def __init__(self, ray: Any, workers: Sequence[Any]) -> None:
        self._ray, self._workers = ray, workers
        self._places: dict[int, Place] = {}
        self._idle = deque[int]()
        self._coming: dict[Any, int] = {}
        self._answers: dict[int, Any] = {}  # what busy workers were asked
        self._steps = Counter[int]()  # and what they said
        for number in range(len(workers)):
            self._expect(number)
        came, _ = ray.wait([*self._coming], num_returns=len(workers), timeout=_SECONDS_TO_JOIN)
        for ref in came or ray.wait([*self._coming])[0]:
            self._join(ref)
        self.models = self._places[self._idle[0]].models

    def _expect(self, number: int) -> None:
        """Have a worker come, or come again."""
        self._coming[self._workers[number].meet.options(max_task_retries=-1).remote()] = number

    def _join(self, ref: Any) -> None:
        """A worker came.

        Raises:
            ValueError: it cannot work, or differs.
        """
        number = self._coming.pop(ref)
        try:
            place = self._result(ref)
        except self._ray.exceptions.RayError as error:
            raise ValueError(f"A worker cannot be started: {_line(error)}") from error
        known = next(iter(self._places.values()), place)
        if place.version != __version__ or place.models != known.models:
            raise ValueError(
                f"A worker has FlashVideo {place.version} with the models {place.models}, another {__version__} with "
                f"{known.models}. Give all workers the same."
            )
        self._places[number] = place
        self._idle.append(number)

    def fit(self, job: VideoJob) -> list[str]:
        """Have those that have nothing to do see whether a video fits; how their models wait, in lines.

        Raises:
            ValueError: it does not fit.
        """
        lines = set[str]()
        for asked in [self._workers[number].fit.remote(job, self._sharing(number)) for number in self._idle]:
            with suppress(self._ray.exceptions.RayError):  # one that died: its next task tells
                lines.add(self._result(asked))
        return sorted(lines - {""})

    def _sharing(self, number: int) -> int:
        """How many workers there are on the machine of one."""
        return Counter(place.node for place in self._places.values())[self._places[number].node]

    def _result(self, ref: Any) -> Any:
        """What a worker was asked for; what it raised is raised here."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def refine(self, tasks: Iterable[Task], progress: Progress) -> Iterator[tuple[Task, ValueError | None]]:
        """See :class:`~flashvideo.runs.refining.Workers`. A task is taken when a worker has nothing to do.

        Raises:
            RuntimeError: workers that die again and again. What is finished is kept.
        """
        source, again, busy = iter(tasks), deque[_Given](), dict[Any, _Given]()
        done = total = shown = 0
        while True:
            while self._idle and (given := again.popleft() if again else self._next(source)):
                total += 0 if given.tries or given.task.number else given.task.steps_of_all
                self._begin(given, busy)
            if not busy and self._idle:
                return
            if not busy and not self._coming:
                raise RuntimeError("all workers died. What is finished is kept: the same command goes on.")
            for ref in self._ray.wait([*busy, *self._coming], timeout=_LOOK)[0]:
                if ref in self._coming:
                    self._come_late(ref)
                    continue
                given, wrong = busy.pop(ref), None
                try:
                    self._result(ref)
                except self._ray.exceptions.RayError as death:
                    self._bury(given, death)
                    again.append(given)
                    continue
                except ValueError as error:
                    wrong = error
                self._idle.append(given.worker)
                done += given.task.steps
                yield given.task, wrong
            now = done + sum(self._told(given.worker) for given in busy.values())
            if now > shown:  # what a worker said of its last task may come late
                progress(f"Stage II, {len(self._places)} workers", now, total)
                shown = now

    @staticmethod
    def _next(source: Iterator[Task]) -> _Given | None:
        task = next(source, None)
        return None if task is None else _Given(task, worker=-1, tries=0)

    def _begin(self, given: _Given, busy: dict[Any, _Given]) -> None:
        number = self._idle.popleft()
        self._steps[number] = 0
        ref = self._workers[number].refine.remote(given.task, self._sharing(number))
        busy[ref] = replace(given, worker=number, tries=given.tries + 1)

    def _bury(self, given: _Given, death: Exception) -> None:
        """A worker died; Ray begins it again, as often as it may."""
        del self._places[given.worker]
        self._answers.pop(given.worker, None)
        task = given.task
        which = f"stretch {task.number + 1} of {task.job.output}"
        if given.tries == _TRIES:
            raise RuntimeError(f"{_TRIES} workers died at {which}: {_line(death)}. What is finished is kept.")
        log.warning("A worker died at %s, which goes on with another: %s", which, _line(death))
        self._expect(given.worker)

    def _come_late(self, ref: Any) -> None:
        try:
            self._join(ref)
        except ValueError as error:
            log.warning("%s It is left out.", error)

    def _told(self, number: int) -> int:
        """Steps of Stage II that a busy worker made, when it was last heard of."""
        if number not in self._answers:
            self._answers[number] = self._workers[number].steps.remote()
        if self._ray.wait([self._answers[number]], timeout=0)[0]:
            with suppress(self._ray.exceptions.RayError):  # its task will tell
                self._steps[number] = self._ray.get(self._answers.pop(number))
        return self._steps[number]


@contextmanager
def open_cluster(
    address: str, make: Callable[[], Refiner], *, device: str, seen: Sequence[Path], folder: Path
) -> Iterator[Cluster]:
    """Workers of a cluster, as many as it has GPUs, or CPUs enough. They end with the block.

    Args:
        address: as Ray takes it: ``auto``, ``local``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        make: makes a worker's refiner, there.
        device: of the models: ``auto``, ``cuda``, ``cpu``.
        seen: files that all workers have to see.
        folder: of the outputs, which all workers have to see.

    Raises:
        ValueError: no such cluster, or a worker that cannot work.
    """
    mark = folder / _MARK
    with _connected(address) as ray, claimed(mark):
        count, share = _shares(ray.cluster_resources(), device)
        sizes = [(path, path.stat().st_size) for path in seen if path.is_file()]
        actor = ray.remote(max_restarts=_RESTARTS, max_concurrency=2, **share)(Worker)
        arguments = (make, str(Path.cwd()), share["num_cpus"], sizes, lock_of(mark))
        workers = [actor.remote(*arguments) for _ in range(count)]
        try:
            yield Cluster(ray, workers)
        finally:
            for worker in workers:
                ray.kill(worker)


def _shares(resources: dict[str, float], device: str) -> tuple[int, dict[str, int]]:
    """How many workers there are, and what each takes.

    Raises:
        ValueError: the cluster has not enough for one.
    """
    cpus, gpus, threads = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), torch.get_num_threads()
    if device.startswith("cuda") or (device == "auto" and gpus):
        if not gpus:
            raise ValueError(f"The Ray cluster has no GPU for --device {device}. Use auto or cpu.")
        return gpus, {"num_gpus": 1, "num_cpus": max(1, min(threads, cpus // gpus))}
    if cpus < threads:
        raise ValueError(
            f"A worker takes {threads} CPUs, as many as torch has threads here, and the Ray cluster has {cpus}. Set "
            "OMP_NUM_THREADS to fewer."
        )
    return cpus // threads, {"num_cpus": threads}


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster; its usage statistics and its dashboard are off.

    Raises:
        ValueError: Ray is not installed, or finds no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError("--ray needs Ray, which is not installed: pip install 'flashvideo[ray]'.") from error
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    on_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(address)
        dashboard = False if address == LOCAL else None  # a cluster that is there has its own
        ray.init(address, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"--ray {address}: no cluster can be reached ({_line(error)}). Start one with `ray start --head`, set "
            f"RAY_AUTH_MODE=token if it asks for a token, or give {LOCAL}, which is this machine."
        ) from error
    try:
        if on_main_thread:
            signal.signal(signal.SIGTERM, before)  # Ray's own handler leaves without cleaning up
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nothing answers at an address with a port: Ray tries for minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=_SECONDS_TO_CONNECT).close()


def _line(error: BaseException) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
