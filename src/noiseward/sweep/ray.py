"""Batches on a Ray cluster (extra `ray`): one actor per device, one pack at a time on each.

The driver deals packs out and listens to beats; an actor holds the model and writes its packs' run directories itself.
What travels through Ray is a spec of some hundred bytes per pack and a beat now and then, so the directory must be one
that all nodes see (a shared file system). An actor or node that is lost costs what it did since its pack's last step:
the pack goes to another actor, which resumes it from its directory.

Packs are the same on every engine, each is done by one process with the same number of threads, and the sampler is a
function: on a CPU the results are those of the local engine, bit for bit, whatever the number of workers and whoever
dies on the way.

Where there are more workers than packs, the others sample candidates for estimators and searches (:class:`Spread`),
again in the same pieces.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor

from noiseward.api import Loaded, prepare_spec
from noiseward.loop.executor import Executor, run_piece
from noiseward.methods import default_method, read_method
from noiseward.options.run import RunSpec
from noiseward.rewards.catalog import ENTRIES
from noiseward.runs.spec import to_text
from noiseward.samplers.cost import NFE
from noiseward.samplers.sampler import Prompt, Sampler
from noiseward.sweep.cluster import Cluster, package
from noiseward.sweep.engine import Beat, Engine, work
from noiseward.sweep.packs import Pack

__all__ = ["RayEngine", "Spread", "Worker"]

PATIENCE = 30.0  # seconds a pack waits for the lock of a worker that is dying
ROOM = 120.0  # seconds a new helper is waited for


@final
class Worker:
    """What an actor does: packs, or pieces for the packs of others.

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

    def work(self, pack: Pack, out: str, helpers: Sequence[Any], every: float) -> Iterator[Beat]:
        """The beats of a pack."""
        executor = Spread(pack.spec, helpers) if helpers else None
        yield from work(pack, Path(out), self._loaded, executor=executor, every=every, patience=PATIENCE)

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
    """Pieces dealt out to other workers, in rounds of one for each of them and one for this process.

    A helper that is lost is done without, and its piece done here.

    Arguments:
        spec: of the pack, from which helpers make the same sampler.
        helpers: actors of :class:`Worker`.
    """

    def __init__(self, spec: RunSpec, helpers: Sequence[Any]) -> None:
        self._spec, self._helpers = spec, list(helpers)

    def run(self, sampler: Sampler, pieces: Iterable[tuple[Tensor, Prompt]]) -> Iterator[tuple[Tensor, NFE]]:
        ray, left = package(), iter(pieces)
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
    """Packs spread over the devices of a cluster. Use it in a `with`, which ends what it began.

    Arguments:
        address: of a running cluster: `auto`, or `HOST:PORT`; None starts one on this machine, or takes the one this
            process is connected to already.
        workers: at most so many; default: one per GPU of the cluster, without GPUs one per `threads` processor cores.
        threads: per worker. Other numbers of threads may round differently.
        tries: how often a pack is begun or gone on with before it is given up, when its worker dies each time.

    Raises:
        ArgumentError: Ray is not installed, there is no cluster at the address, or it has no room for the workers.
        RunError: Ray did not start.
    """

    def __init__(
        self, address: str | None = None, *, workers: int | None = None, threads: int = 1, tries: int = 3
    ) -> None:
        self._cluster = Cluster(address, workers=workers, threads=threads)
        self._ray, self.workers, self._tries = self._cluster.ray, self._cluster.workers, tries
        self._free: list[Any] = []

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the workers go, and end the cluster if it was started here."""
        self._dismiss()
        self._cluster.close()

    def run(self, packs: Sequence[Pack], out: Path) -> Iterator[Beat]:
        waiting, flying, tries = deque(packs), dict[Any, tuple[Pack, Any, list[Any]]](), dict[str, int]()
        heard = set[Any]()
        crews = self._crews(packs)
        every = max(0.5, self.workers / 100)  # at most some 100 beats per second, whatever the number of workers
        try:
            while waiting or flying:
                while waiting and len(flying) + sum(len(helpers) for _, _, helpers in flying.values()) < self.workers:
                    pack = waiting.popleft()
                    actor, helpers = self._team(crews)
                    beats = actor.work.remote(pack, str(out.absolute()), helpers, every)
                    flying[beats] = pack, actor, helpers
                (beats, *_), _ = self._ray.wait(list(flying), num_returns=1)
                pack, actor, helpers = flying[beats]
                try:
                    beat: Beat = self._ray.get(next(beats))
                except StopIteration:
                    del flying[beats]
                    self._free += [actor, *helpers]
                    if not waiting and not flying.keys() <= heard:
                        self._dismiss()  # one hired in the place of a lost one may wait for its room
                except self._ray.exceptions.RayError as error:
                    del flying[beats]
                    self._ray.kill(actor)
                    self._free += helpers
                    tries[pack.name] = tries.get(pack.name, 0) + 1
                    if tries[pack.name] < self._tries:
                        waiting.appendleft(pack)
                        continue
                    told = f"its worker died {tries[pack.name]} times, the last time with {type(error).__name__}"
                    size = sum(1 for _ in pack.rows())
                    yield Beat(pack.name, "failed", size, error=f"{told}: out of memory?", divisible=True)
                else:
                    heard.add(beats)
                    yield beat
                    if beat.state == "interrupted":
                        return
        finally:
            for _, actor, helpers in flying.values():
                for one in (actor, *helpers):
                    self._ray.kill(one)

    def _crews(self, packs: Sequence[Pack]) -> int:
        """How many helpers each pack gets: what is left of the workers, where packs try candidates."""
        if not packs or not all(_tries_candidates(pack.spec) for pack in packs):
            return 0
        return max(0, self.workers // len(packs) - 1)

    def _team(self, helpers: int) -> tuple[Any, list[Any]]:
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
        return self._cluster.hire(Worker)


def _tries_candidates(spec: RunSpec) -> bool:
    """Whether a spec's directions or moves come from candidates."""
    names = [text.partition(":")[0] for text in spec.reward]
    black = any(name in ("http", "https") or (name in ENTRIES and not ENTRIES[name].differentiable) for name in names)
    return read_method(spec.method or default_method(not black)).tries_candidates(not black)
