"""A Ray cluster (extra `ray`) and the actors hired on it: one per GPU, or per so many processor cores.

Usage statistics are off.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol, TypeVar, final

from noiseward.errors import ArgumentError, RunError

__all__ = ["Cluster", "package", "start"]

Task = TypeVar("Task", bound="Named")


class Named(Protocol):
    """Work that is told apart by its name."""

    @property
    def name(self) -> str: ...


def package() -> Any:
    """Ray, with its usage statistics off.

    Raises:
        ArgumentError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ArgumentError(
            "engine 'ray' wants the package ray, which is not here: pip install 'noiseward[ray]'"
        ) from None
    return ray


def start(cores: int | None = None) -> None:
    """Start Ray on this machine alone, for as long as this process lives.

    Arguments:
        cores: how many it takes itself to have; default: those it has.

    Raises:
        RunError: it does not start. Ray gives itself 30 seconds for it, so a busy machine is asked three times.
    """
    ray = package()
    for attempt in range(3):
        try:
            ray.init(
                address="local", num_cpus=cores, include_dashboard=False, object_store_memory=200 * 2**20,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
            return
        except Exception as error:  # of several types, whatever went wrong
            ray.shutdown()
            if attempt == 2:
                raise RunError(f"Ray did not start here ({_said(error)}): try again, or --engine local") from None


@final
class Cluster:
    """Room for workers. Use it in a `with`, which ends what it began.

    Arguments:
        address: of a running cluster: `auto`, or `HOST:PORT`; None starts one on this machine, or takes the one this
            process is connected to already.
        workers: at most so many; default: one per GPU of the cluster, without GPUs one per `threads` processor cores.
        threads: per worker. Other numbers of threads may round differently.

    Raises:
        ArgumentError: Ray is not installed, there is no cluster at the address, or it has no room for the workers.
        RunError: Ray did not start.
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None, threads: int = 1) -> None:
        self.ray = ray = package()
        self._ours = not ray.is_initialized()
        if self._ours and address is None:
            start()
        elif self._ours:
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except Exception as error:  # of several types, whatever went wrong
                raise ArgumentError(
                    f"no cluster at '{address}' ({_said(error)}): 'ray start --head' starts one; "
                    "leave --address out for this machine alone"
                ) from None
        there = ray.cluster_resources()
        self._gpus = 1 if there.get("GPU", 0) >= 1 else 0
        room = int(there["GPU"]) if self._gpus else int(there.get("CPU", 1) // threads)
        if workers is not None and not 1 <= workers <= room:
            self.close()
            what = "GPUs" if self._gpus else f"times {threads} processor cores"
            raise ArgumentError(f"{workers} workers asked for, and the cluster has {room} {what}: ask for 1 to {room}")
        self.workers, self.threads = workers or max(room, 1), threads

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the cluster if it was started here."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()

    def hire(self, kind: type, *arguments: Any) -> Any:
        """A new actor of a class, with its share of the machine; it is given threads, folder and the arguments."""
        actor = self.ray.remote(kind).options(num_cpus=self.threads, num_gpus=self._gpus)
        return actor.remote(self.threads, os.getcwd(), *arguments)

    def each(
        self, kind: type, arguments: Sequence[Any], tasks: Sequence[Task], *, tries: int = 3
    ) -> Iterator[tuple[Task, Any]]:
        """Every task with what an actor's method `do` makes of it, in the order they end.

        Arguments:
            kind: the actors' class.
            arguments: what each of them is made with.
            tasks: plain data.
            tries: how often a task is begun before it is given up, when its actor dies each time.

        Raises:
            RunError: a task was given up.
        """
        ray, waiting, flying = self.ray, deque(tasks), dict[Any, tuple[Task, Any]]()
        begun, free = Counter[str](), list[Any]()
        try:
            while waiting or flying:
                while waiting and len(flying) < self.workers:
                    task, actor = waiting.popleft(), free.pop() if free else self.hire(kind, *arguments)
                    begun[task.name] += 1
                    flying[actor.do.remote(task)] = task, actor
                (answer, *_), _ = ray.wait(list(flying), num_returns=1)
                task, actor = flying.pop(answer)
                try:
                    result = ray.get(answer)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    if begun[task.name] >= tries:
                        told = f"its worker died {tries} times, the last time with {type(error).__name__}"
                        raise RunError(f"{task.name}: {told}: out of memory?") from None
                    waiting.appendleft(task)
                else:
                    free.append(actor)
                    while free and not waiting:  # one hired in the place of a lost one may wait for its room
                        ray.kill(free.pop())
                    yield task, result
        finally:
            for actor in (*free, *(actor for _, actor in flying.values())):
                ray.kill(actor)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
