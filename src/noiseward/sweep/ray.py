"""Tasks on a Ray cluster (extra `ray`): one actor per device, one task at a time on each.

The driver assigns tasks and listens to beats; an actor holds the model and writes its packs' run directories itself.
What travels through Ray is a spec of some hundred bytes per pack and a beat now and then, so the directory must be on a
file system that all nodes share. An actor or node that is lost costs what it did since its pack's last step: the pack
goes to another actor, which resumes it from its directory.

Packs are the same on every engine, each is done by one process with the same number of threads, and the sampler is a
function: on a CPU the results are those of the local engine, bit for bit, whatever the number of workers and whichever
of them die on the way. Under a budget of seconds, workers of one machine share its time.

Where there are more workers than packs, the others sample candidates for estimators and searches (:class:`Spread`),
again in the same pieces.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, describe_error
from noiseward.loop.executor import Executor, run_piece
from noiseward.options.commands import EngineOptions
from noiseward.options.run import RunSpec
from noiseward.problem import Loaded, prepare_spec
from noiseward.runs.spec import to_text
from noiseward.samplers.cost import NFE
from noiseward.samplers.sampler import Prompt, Sampler
from noiseward.sweep.cluster import connect, import_ray, start
from noiseward.sweep.engine import Beat, Context, Engine, Local, Task

__all__ = ["RayEngine", "Spread", "Worker", "open_engine"]

PATIENCE = 30.0  # seconds a pack waits for the lock of a worker that is dying
ROOM = 120.0  # seconds to wait for a new helper


@final
class Worker:
    """What an actor does: tasks, or pieces for the tasks of others.

    Arguments:
        threads: of the processor.
        folder: to work in, where it exists on its node: paths in specs may be relative.
    """

    def __init__(self, threads: int, folder: str) -> None:
        torch.set_num_threads(threads)
        if os.path.isdir(folder):
            os.chdir(folder)
        self._loaded = Loaded()
        self._pieces = 0

    def work(self, task: Task, helpers: Sequence[Any], every: float) -> Iterator[Beat]:
        """Yield the beats of a task."""
        yield from task.run(
            Context(self._loaded, lambda spec: Spread(spec, helpers) if helpers else None, every, PATIENCE)
        )

    def sample(self, spec: RunSpec, noise: Tensor, prompt: Prompt) -> tuple[Tensor, NFE]:
        """The samples of a piece of some pack's candidates."""
        problem = self._loaded.get("problem", to_text(spec), lambda: prepare_spec(spec, self._loaded))
        self._pieces += 1
        with torch.no_grad():
            sample, nfe = run_piece(problem.objective.sampler, noise.to(problem.noise.device), prompt)
        return sample.cpu(), nfe

    def pieces(self) -> int:
        """How many pieces it sampled for others."""
        return self._pieces


@final
class Spread(Executor):
    """Pieces assigned to other workers, in rounds of one for each of them and one for this process.

    Where a helper is lost, its piece is sampled here.

    Arguments:
        spec: of the pack, from which helpers make the same sampler.
        helpers: actors of :class:`Worker`.
    """

    def __init__(self, spec: RunSpec, helpers: Sequence[Any]) -> None:
        self._spec, self._helpers = spec, list(helpers)

    def run(self, sampler: Sampler, pieces: Iterable[tuple[Tensor, Prompt]]) -> Iterator[tuple[Tensor, NFE]]:
        ray, left = import_ray(), iter(pieces)
        while turn := list(itertools.islice(left, len(self._helpers) + 1)):
            helpers = self._helpers[: len(turn) - 1]
            asked = [
                helper.sample.remote(self._spec, noise.cpu(), prompt)
                for helper, (noise, prompt) in zip(helpers, turn[1:], strict=True)
            ]
            yield run_piece(sampler, *turn[0])
            for helper, answer, (noise, prompt) in zip(helpers, asked, turn[1:], strict=True):
                try:
                    sample, nfe = ray.get(answer)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError:
                    self._helpers.remove(helper)
                    yield run_piece(sampler, noise, prompt)
                else:
                    yield sample.to(noise.device), nfe


@final
class RayEngine(Engine):
    """Tasks on the devices of a cluster. Use it in a `with`, which ends what was started in it.

    Arguments:
        address: of a running cluster: `auto`, or `HOST:PORT`; None starts one on this machine, or takes the one this
            process is connected to already.
        workers: at most this many; default: one per GPU of the cluster, without GPUs one per `threads` processor cores.
        threads: per worker. Other numbers of threads may round differently.
        tries: how often a task is begun or continued before it is given up, when its worker dies each time.

    Raises:
        ArgumentError: Ray is not installed, there is no cluster at the address, or it has no room for the workers.
        RunError: Ray did not start.
    """

    remote = True

    def __init__(
        self, address: str | None = None, *, workers: int | None = None, threads: int = 1, tries: int = 3
    ) -> None:
        self._ray, self._tries, self._free = import_ray(), tries, list[Any]()
        self._is_ours = not self._ray.is_initialized()
        if self._is_ours:
            start() if address is None else connect(address)
        there = self._ray.cluster_resources()
        gpus = 1 if there.get("GPU", 0) >= 1 else 0
        room = int(there["GPU"]) if gpus else int(there.get("CPU", 1) // threads)
        if workers is not None and not 1 <= workers <= room:
            self.close()
            what = "GPUs" if gpus else f"times {threads} processor cores"
            raise ArgumentError(f"--workers must be 1 to {room}, for the cluster has {room} {what}, got {workers}")
        self.workers = workers or max(room, 1)
        kind = self._ray.remote(Worker).options(num_cpus=threads, num_gpus=gpus)
        self._new = lambda: kind.remote(threads, os.getcwd())

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go, and end the cluster if it was started here."""
        self._dismiss()
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()

    def run(self, tasks: Sequence[Task]) -> Iterator[Beat]:
        waiting, deaths = deque(tasks), Counter[str]()
        running = dict[Any, tuple[Task, Any, list[Any]]]()
        alive = set[Any]()
        each = self._helpers_per_task(tasks)
        every = max(0.5, self.workers / 100)  # at most some 100 beats per second, whatever the number of workers
        try:
            while waiting or running:
                while waiting and len(running) + sum(len(helpers) for *_, helpers in running.values()) < self.workers:
                    task = waiting.popleft()
                    actor, helpers = self._hire_team(each)
                    running[actor.work.remote(task, helpers, every)] = task, actor, helpers
                (beats, *_), _ = self._ray.wait(list(running), num_returns=1)
                task, actor, helpers = running[beats]
                beat, has_ended = None, False
                try:
                    beat = self._ray.get(next(beats))
                    alive.add(beats)
                except StopIteration:
                    has_ended = True
                except self._ray.exceptions.RayTaskError as error:  # it raised, or could not be sent
                    beat, has_ended = Beat(task.name, "failed", task.size, error=describe_error(error.cause)), True
                except self._ray.exceptions.RayError as error:
                    del running[beats]
                    self._ray.kill(actor)
                    self._free += helpers
                    deaths[task.name] += 1
                    if deaths[task.name] < self._tries:
                        waiting.appendleft(task)
                        continue
                    died = f"its worker died {deaths[task.name]} times, the last time with {type(error).__name__}"
                    beat = Beat(task.name, "failed", task.size, error=f"{died}; out of memory?", divisible=True)
                if has_ended:
                    del running[beats]
                    self._free += [actor, *helpers]
                    if not waiting and not running.keys() <= alive:
                        self._dismiss()  # one that replaces a lost one may wait for its room
                if beat is not None:
                    yield beat
                    if beat.state == "interrupted":
                        return
        finally:
            for _, actor, helpers in running.values():
                for one in (actor, *helpers):
                    self._ray.kill(one)

    def _helpers_per_task(self, tasks: Sequence[Task]) -> int:
        """How many helpers each task gets: the workers that are left over, where all tasks try candidates."""
        if not tasks or not all(task.tries_candidates for task in tasks):
            return 0
        return max(0, self.workers // len(tasks) - 1)

    def _hire_team(self, helpers: int) -> tuple[Any, list[Any]]:
        """A worker and its helpers, without those for whom there is no room, as after the loss of a node."""
        first, *others = [self._hire() for _ in range(1 + helpers)]
        answers = [other.pieces.remote() for other in others]
        there = set(self._ray.wait(answers, num_returns=len(answers), timeout=ROOM)[0] if answers else ())
        for other, answer in zip(others, answers, strict=True):
            if answer not in there:
                self._ray.kill(other)
        return first, [other for other, answer in zip(others, answers, strict=True) if answer in there]

    def _dismiss(self) -> None:
        """Let go of the workers that are free."""
        for actor in self._free:
            self._ray.kill(actor)
        self._free = []

    def _hire(self) -> Any:
        """A worker that is free and alive, or a new one."""
        while self._free:
            actor = self._free.pop()
            try:
                self._ray.get(actor.pieces.remote())
                return actor
            except self._ray.exceptions.RayError:
                continue
        return self._new()


@contextlib.contextmanager
def open_engine(options: EngineOptions) -> Iterator[Engine]:
    """The engine that options ask for, in the body of a `with`."""
    if options.engine == "local":
        yield Local()
    else:
        with RayEngine(options.address, workers=options.workers, threads=options.threads) as engine:
            yield engine
