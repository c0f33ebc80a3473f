r"""What came out: the best noise of each row, its sample, and how it got there.

:func:`collect` folds the steps of :func:`~noiseward.loop.loop.iterate` into a :class:`Solution`;
:func:`pass_and_collect` passes the steps on meanwhile; :func:`optimize` iterates and collects in one call. A Ctrl-C
between the first step and the last ends the run, not the program: the best so far is the result. The same holds when
memory runs out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from noiseward.errors import ArgumentError, NoisewardWarning, OutOfMemory
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import Best, Optimizer, Step, iterate
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.panel import Hacking, best_before_hacking, find_hacked, find_hacking
from noiseward.noise.layout import Layout, Seeds
from noiseward.noise.typicality import ADVICE, SUSPECT, strict_probability
from noiseward.samplers.cost import NFE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Frames", "Past", "Solution", "collect", "pass_and_collect", "optimize", "describe_stall"]


class Frames:
    """A few samples along the way, evenly spread however long the way turns out: every 1st, then 2nd, then 4th ...
    step.

    Arguments:
        limit: how many to keep at most.

    Example:
        >>> import torch
        >>> frames = Frames(limit=4)
        >>> for index in range(9):
        ...     frames.add(index, torch.tensor([float(index)]))
        >>> [index for index, _ in frames]
        [0, 4, 8]
    """

    def __init__(self, limit: int = 12) -> None:
        self.limit, self._stride = limit, 1
        self._kept: list[tuple[int, Tensor | None]] = []

    def add(self, index: int, sample: Tensor | None) -> None:
        """Offer the samples `(B, *X)` of a step; one that is known already is replaced.

        A step whose samples are lost is offered as None: it has its part in the spreading, and no frame.
        """
        if index % self._stride:
            return
        self._kept = [(k, kept) for k, kept in self._kept if k < index]
        self._kept.append((index, None if sample is None else sample.detach().cpu()))
        while len(self._kept) > self.limit:
            self._stride *= 2
            self._kept = [(k, kept) for k, kept in self._kept if k % self._stride == 0]

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        return ((index, sample) for index, sample in self._kept if sample is not None)

    def __len__(self) -> int:
        return sum(sample is not None for _, sample in self._kept)


@dataclasses.dataclass(frozen=True)
class Solution:
    """The result of a run, row by row.

    Attributes:
        noise: the best noise, `(B, *noise_shape)`.
        sample: its samples, `(B, *X)`.
        reward, value: `(B,)`, of exactly that noise.
        index: `(B,)`, the step each was found at.
        initial: the evaluation of the noise the run started from.
        status: why each row stopped.
        history: one record of plain numbers per step (see `Step.record`).
        frames: a few (step, samples) along the way.
        last: the last step; `iterate(objective, solution.last, ...)` goes on from it.
        layout: the sampler's draws.
    """

    noise: Tensor
    sample: Tensor
    reward: Tensor
    value: Tensor
    index: Tensor
    initial: Evaluation
    status: tuple[Status, ...]
    history: list[dict[str, Any]]
    frames: Frames
    last: Step
    layout: Layout

    @property
    def dead_draws(self) -> tuple[str, ...]:
        """Names of the draws the sample does not depend on."""
        return self.layout.dead

    @property
    def probability(self) -> list[float]:
        """P(z) of each row's best noise."""
        return self.last.best.probability.tolist()

    @property
    def strict_probability(self) -> list[float]:
        """The strict probability of each row's best noise (`strict.py`); below 1e-3 it hardly passes for noise."""
        return self._strict[0].tolist()

    @property
    def suspect(self) -> list[str]:
        """What looks least like noise in each row, such as `norm of start`."""
        return self._strict[1]

    @functools.cached_property
    def _strict(self) -> tuple[Tensor, list[str]]:
        return strict_probability(self.noise, self.layout)

    @functools.cached_property
    def hacking(self) -> list[Hacking | None]:
        """For each row, what the panel says if its target left what it stands for (`panel.py`)."""
        return [find_hacking(self.history, row) for row in range(len(self.status))]

    def best(self, by: Literal["value", "pareto"] = "value") -> Best:
        """The best of each row, with its noise and sample.

        Arguments:
            by: `value`, which is what `noise`, `sample`, `reward` and `index` hold; `pareto` for the highest value from
                before the panel fell, in rows where it did.

        Raises:
            ArgumentError: pareto, and nothing was watched.
        """
        best = self.last.best
        if by == "value":
            return best
        if by != "pareto":
            raise ArgumentError(f"best by '{by}' given: value or pareto wanted")
        if not self.last.peaks:
            raise ArgumentError(
                "best by pareto wants a panel and nothing was watched: give watch=, as in watch=['jpeg']"
            )
        return best_before_hacking(best, self.last.peaks, self.hacking)

    @property
    def gain(self) -> Tensor:
        """How much the reward rose from start to best, `(B,)`."""
        return self.reward - self.initial.reward

    @property
    def nfe(self) -> NFE:
        """Denoiser calls of the whole run, per row."""
        return self.last.nfe

    @property
    def seconds(self) -> float:
        """Wall time of the whole run."""
        return self.last.seconds

    @property
    def images(self) -> list[Image]:
        """The best samples as pictures."""
        from noiseward import pictures

        return pictures.images(self.sample)

    @property
    def initial_images(self) -> list[Image]:
        """The samples the run started from, as pictures."""
        from noiseward import pictures

        return pictures.images(self.initial.sample)

    def strip(self) -> Image:
        """The trajectory as one picture: a row per row, from the start through the frames to the best."""
        from noiseward import pictures

        return pictures.strip(self.initial.sample, list(self.frames), self.sample, self.index.tolist())

    def plot(self, path: str | Path | None = None) -> Image:
        """Reward and P(z) against steps, as a picture; also saved when a path is given."""
        from noiseward import pictures

        plot = pictures.plot(self.history, hacked=find_hacked(self.history))
        if path is not None:
            plot.save(path)
        return plot

    def save(self, folder: str | Path) -> Path:
        """Write the pictures, the plot and the noise into a new or empty folder.

        Writes `initial/00.png` ..., `best/00.png` ..., `strip.png`, `plot.png`, `best.safetensors`, `steps.jsonl`.

        Raises:
            ArgumentError: the folder holds something already.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArgumentError(f"{folder} is not an empty folder: give a new one")
        for name, images in (("initial", self.initial_images), ("best", self.images)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for row, image in enumerate(images):
                image.save(folder / name / f"{row:02d}.png")
        self.strip().save(folder / "strip.png")
        self.plot(folder / "plot.png")
        save_file({"noise": self.noise.cpu().contiguous()}, folder / "best.safetensors")
        (folder / "steps.jsonl").write_text("".join(json.dumps(record) + "\n" for record in self.history))
        return folder

    def __repr__(self) -> str:
        lines = [f"Solution of {len(self.history)} steps, {self.nfe.forward} denoiser calls, {self.seconds:.1f} s"]
        for row, status in enumerate(self.status):
            start, best, likely = float(self.initial.reward[row]), float(self.reward[row]), self.probability[row]
            lines.append(f"  row {row}: reward {start:.4g} -> {best:.4g}, P(z) {likely:.2g}; {status.value}")
            if self.strict_probability[row] < SUSPECT:
                lines.append(f"    strict P(z) {self.strict_probability[row]:.1g} ({self.suspect[row]}): {ADVICE}")
            if note := describe_stall(self.history, row):
                lines.append(f"    {note}")
            if said := self.hacking[row]:
                lines.append(f"    {said}")
        return "\n".join(lines)


def describe_stall(history: Sequence[Mapping[str, Any]], row: int) -> str | None:
    """What to say about a row whose direction was zero at some moves, from the records of its steps; None if at none.

    Example:
        >>> describe_stall([{"grad_norm": [0.0]}, {"grad_norm": [2.0]}, {"grad_norm": None}], 0)
        'the gradient was zero at 1 of 2 steps, so the noise did not move: the reward is flat there (clamped, ...'
    """
    norms = [record["grad_norm"][row] for record in history if record["grad_norm"] is not None]
    if 0.0 not in norms:
        return None
    return (
        f"the gradient was zero at {norms.count(0.0)} of {len(norms)} steps, so the noise did not move: the reward is "
        "flat there (clamped, saturated or rounded), or all candidates of an estimator scored the same (try a larger "
        "scale)"
    )


@dataclasses.dataclass(frozen=True)
class Past:
    """What a run that goes on already has: its first evaluation, its records, its frames."""

    initial: Evaluation
    history: list[dict[str, Any]]
    frames: Frames


def collect(steps: Iterable[Step], objective: Objective, *, past: Past | None = None) -> Solution:
    """Fold steps into a solution; the arguments are those of `pass_and_collect`."""
    passing = pass_and_collect(steps, objective, past=past)
    while True:
        try:
            next(passing)
        except StopIteration as end:
            return end.value


def pass_and_collect(
    steps: Iterable[Step], objective: Objective, *, past: Past | None = None
) -> Generator[Step, None, Solution]:
    """Pass steps on, and return the solution when they end (`solution = yield from collecting(...)`).

    On KeyboardInterrupt after the first step, the rows still running get `Status.INTERRUPTED` and the fold ends; on
    `OutOfMemory` they get `Status.MEMORY`, and a warning names what takes less.

    Arguments:
        steps: what `iterate` yields.
        objective: what it climbs.
        past: what was before, where the steps go on from a place of an earlier run.
    """
    history, frames = ([], Frames()) if past is None else (list(past.history), past.frames)
    first = last = None
    ended = None
    try:
        for step in steps:
            history = [record for record in history if record["index"] < step.index] if first is None else history
            history.append(step.record())
            frames.add(step.index, step.evaluation.sample)
            first, last = first or step, step
            yield step
    except KeyboardInterrupt:
        if last is None:
            raise
        ended = Status.INTERRUPTED
        history = [record for record in history if record["index"] <= last.index]
    except OutOfMemory as error:
        if last is None:
            raise
        ended = Status.MEMORY
        warnings.warn(f"{error}; the best so far was kept", NoisewardWarning, stacklevel=2)
    if first is None or last is None:
        raise ArgumentError("no step was given to collect: the iterator was used up already")
    status = tuple(ended if ended and old is Status.RUNNING else old for old in last.status)
    best: Best = last.best
    return Solution(
        noise=best.noise,
        sample=best.sample,
        reward=best.reward,
        value=best.value,
        index=best.index,
        initial=first.evaluation if past is None else past.initial,
        status=status,
        history=history,
        frames=frames,
        last=last,
        layout=objective.sampler.layout,
    )


def optimize(
    objective: Objective, start: Tensor | Step, *, optimizer: Optimizer, budget: Budget, seeds: Seeds | None = None
) -> Solution:
    """Climb until the budget is spent: `collect(iterate(...))`; see `iterate` for the arguments.

    Example:
        >>> from noiseward.optimizers.ascend import GradientAscent
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> solution = optimize(
        ...     Objective(sampler, Quadratic(1.0)),
        ...     sampler.init(2, seed=0),
        ...     optimizer=GradientAscent(lr=0.1),
        ...     budget=Budget(steps=50),
        ... )
        >>> bool((solution.reward > -0.01).all()), solution.dead_draws
        (True, ('step 4',))
    """
    return collect(iterate(objective, start, optimizer=optimizer, budget=budget, seeds=seeds), objective)
