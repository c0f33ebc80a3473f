"""Engines: where the tasks of a sweep run, and what they report on the way.

A task is a pack of a sweep (`pack_task.py`), or any other work that can run anywhere and keeps its results on disk. An
engine runs tasks and yields beats: a sign of life of a task now and then, and one when it ends. Results do not depend
on the engine. `Local` runs one task after the other in this process; `noiseward.sweep.ray` runs them on the devices of
a cluster.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, Protocol, final

from noiseward.loop.executor import Executor
from noiseward.options.run import RunSpec
from noiseward.problem import Loaded

__all__ = ["Beat", "Context", "Engine", "Local", "Task"]


@dataclasses.dataclass(frozen=True)
class Beat:
    """A sign of life of a task.

    Attributes:
        pack: name of the task.
        state: what it is now; `refused` where the method of a comparison does not apply.
        rows: how many it has.
        step: its last step.
        part: how much of its budget is spent, 0 to 1.
        gain: of each row, how much its reward rose; rows whose reward is not finite are left out.
        error: why it failed, in one line.
        divisible: of one that failed, whether its rows may succeed one by one: not where the model or a reward could
            not be loaded, or the directory not be read or written.
    """

    pack: str
    state: Literal["running", "done", "failed", "interrupted", "refused"]
    rows: int
    step: int = 0
    part: float = 0.0
    gain: tuple[float, ...] = ()
    error: str | None = None
    divisible: bool = False

    def record(self) -> dict[str, Any]:
        """The beat as plain data."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Context:
    """What an engine gives a task.

    Attributes:
        loaded: models and rewards of the tasks before.
        find_executor: who samples candidates of a run; None for this process.
        every: seconds between two beats, at least.
        patience: seconds to wait for another process to release a directory.
    """

    loaded: Loaded = dataclasses.field(default_factory=Loaded)
    find_executor: Callable[[RunSpec], Executor | None] = lambda spec: None
    every: float = 0.0
    patience: float = 0.0


class Task(Protocol):
    """Work for an engine.

    Attributes:
        name: unique among the tasks of one call.
        size: its rows.
        tries_candidates: whether other processes can sample candidates for it.
    """

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def tries_candidates(self) -> bool: ...

    def run(self, context: Context) -> Iterator[Beat]:
        """Work, or continue; the last beat says how it ended. Errors are beats too."""
        ...


class Engine(abc.ABC):
    """Runs tasks.

    Attributes:
        remote: whether tasks run in other processes, which may have another working directory.
    """

    remote: ClassVar[bool]

    @abc.abstractmethod
    def run(self, tasks: Sequence[Task]) -> Iterator[Beat]:
        """Run each task until it is done or failed; ends early after an interruption."""


@final
class Local(Engine):
    """One task after the other, in this process.

    Models and rewards are kept from task to task.
    """

    remote = False

    def __init__(self) -> None:
        self._context = Context()

    def run(self, tasks: Sequence[Task]) -> Iterator[Beat]:
        for task in tasks:
            for beat in task.run(self._context):
                yield beat
                if beat.state == "interrupted":
                    return
