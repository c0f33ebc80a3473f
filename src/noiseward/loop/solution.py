"""The result of a run: the best noise of each row, its sample, and how it got there."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, shorten
from noiseward.loop.about import About
from noiseward.loop.budget import Status
from noiseward.loop.describe import ADVICE, SUSPECT, UNTESTED_IMAGES, describe_peak, describe_stall
from noiseward.loop.frames import Frames
from noiseward.loop.hacking import Hacking, find_hacked, find_hacking
from noiseward.loop.objective import Evaluation
from noiseward.loop.panel import best_before_hacking
from noiseward.loop.solution_files import read_parts, write_solution
from noiseward.loop.solution_html import MOST, to_html
from noiseward.loop.step import Best, Step
from noiseward.noise.layout import Layout
from noiseward.noise.typicality import strict_probability
from noiseward.rewards.shortfall import FAILED, describe_reward, describe_shortfall
from noiseward.samplers.cost import NFE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Solution"]

SIDE = 256  # pixels of an image where a solution shows itself


@dataclasses.dataclass(frozen=True)
class Solution:
    """The result of a run, row by row.

    Attributes:
        found: the best of each row; the properties `noise`, `sample`, `reward`, `value` and `index` are parts of it.
        initial: the evaluation of the noise the run started from.
        status: why each row stopped.
        history: one record of plain numbers per step (see `Step.record`).
        frames: a few (step, samples) along the way.
        layout: the sampler's draws.
        peaks: the best of each row when a watched reward was last highest, by its name.
        peak: what scored highest, whether it passed or not, where results must be plausible (`plausible.py`).
        untested: why images were not tested, where they were to be; None otherwise.
        method: what was done, where the method left that to model and reward; None otherwise.
        last: the last step; `iterate(objective, solution.last, ...)` continues from it. None where the solution was
            loaded from a folder.
        about: what was asked, where that is known.

    Example:
        >>> from noiseward import align
        >>> solution = align("stickers", "a duck", "brightness", steps=1, num_inference_steps=4, progress=False)
        >>> bool(solution.gain[0] >= 0), solution.images[0].size, solution.status[0].name
        (True, (64, 64), 'STEPS')
    """

    found: Best
    initial: Evaluation
    status: tuple[Status, ...]
    history: list[dict[str, Any]]
    frames: Frames
    layout: Layout
    peaks: Mapping[str, Best] = dataclasses.field(default_factory=dict)
    peak: Best | None = None
    untested: str | None = None
    method: str | None = None
    last: Step | None = None
    about: About = About()

    @property
    def noise(self) -> Tensor:
        """The best noise, `(B, *noise_shape)`."""
        return self.found.noise

    @property
    def sample(self) -> Tensor:
        """The sample of exactly that noise, `(B, *X)`."""
        return self.found.sample

    @property
    def reward(self) -> Tensor:
        """Its reward, `(B,)`; -1e9 or less where it fails a requirement (see `shortfall`)."""
        return self.found.reward

    @property
    def value(self) -> Tensor:
        """Its value, `(B,)`: the reward less the penalty."""
        return self.found.value

    @property
    def index(self) -> Tensor:
        """The step each was found at, `(B,)`."""
        return self.found.index

    @property
    def dead_draws(self) -> tuple[str, ...]:
        """Names of the draws the sample does not depend on."""
        return self.layout.dead

    @property
    def probability(self) -> list[float]:
        """P(z) of each row's best noise."""
        return self.found.probability.tolist()

    @property
    def strict_probability(self) -> list[float]:
        """The strict probability of each row's best noise (`typicality.py`); below 1e-3 it hardly passes for noise."""
        return self._strict[0].tolist()

    @property
    def image_probability(self) -> list[float | None]:
        """The probability of each row's best image (`samplers/image_tests.py`); None where it was not tested."""
        return [None if p < 0 else p for p in self.found.image.tolist()]

    @property
    def shortfall(self) -> list[str | None]:
        """What each row's best lacks of what was required, in words; None where it meets all."""
        terms = {record["index"]: record["terms"] for record in self.history}
        found = enumerate(self.index.tolist())
        return [describe_shortfall({name: part[row] for name, part in terms[k].items()}) for row, k in found]

    @property
    def suspect(self) -> list[str]:
        """What looks least like noise in each row, such as `norm of start`."""
        return self._strict[1]

    @functools.cached_property
    def _strict(self) -> tuple[Tensor, list[str]]:
        return strict_probability(self.noise, self.layout)

    @functools.cached_property
    def hacking(self) -> list[Hacking | None]:
        """For each row, the likely reward hacking that the watched rewards show (`panel.py`)."""
        return [find_hacking(self.history, row) for row in range(len(self.status))]

    def best(self, by: Literal["value", "pareto"] = "value") -> Best:
        """The best of each row, with its noise and sample.

        Arguments:
            by: `value`, which is what `noise`, `sample`, `reward` and `index` hold; `pareto` for the highest value from
                before the watched rewards fell, in rows where they did.

        Raises:
            ArgumentError: pareto, and nothing was watched.
        """
        best = self.found
        if by == "value":
            return best
        if by != "pareto":
            raise ArgumentError(f"by must be 'value' or 'pareto', got {by!r}")
        if not self.peaks:
            raise ArgumentError("by='pareto' needs watched rewards, got none; pass watch=, as in watch=['jpeg']")
        return best_before_hacking(best, self.peaks, self.hacking)

    @property
    def gain(self) -> Tensor:
        """How much the reward rose from start to best, `(B,)`; nan where one of them fails a requirement."""
        unmet = torch.minimum(self.reward, self.initial.reward) <= FAILED
        return (self.reward - self.initial.reward).masked_fill(unmet, math.nan)

    @property
    def nfe(self) -> NFE:
        """Denoiser calls of the whole run, per row."""
        return NFE(**self.history[-1]["nfe"])

    @property
    def seconds(self) -> float:
        """Wall time of the whole run."""
        return self.history[-1]["seconds"]

    @property
    def images(self) -> list[Image]:
        """The best samples as images."""
        from noiseward.images import to_images

        return to_images(self.sample)

    @property
    def initial_images(self) -> list[Image]:
        """The samples the run started from, as images."""
        from noiseward.images import to_images

        return to_images(self.initial.sample)

    def strip(self) -> Image:
        """The trajectory as one image: a line per row, from the start through the frames to the best."""
        from noiseward.images import draw_strip

        known = bool(self.about.prompts or self.about.seeds)
        captions = [self._caption(row) for row in range(len(self.status))] if known else []
        kept = (self.initial.sample, list(self.frames), self.sample, self.index.tolist())
        return draw_strip(*kept, captions=captions)

    def _caption(self, row: int) -> str:
        start, best = describe_reward(float(self.initial.reward[row])), describe_reward(float(self.reward[row]))
        return f"{self.about.title(row)}: {self.about.reward or 'reward'} {start} -> {best}"

    def plot(self, path: str | Path | None = None) -> Image:
        """Plot reward and P(z) against steps; also saved when a path is given."""
        from noiseward.images.plots import plot_history

        names = [self.about.title(row) for row in range(len(self.status))]
        plot = plot_history(self.history, hacked=find_hacked(self.history), names=names)
        if path is not None:
            plot.save(path)
        return plot

    def save(self, folder: str | Path) -> Path:
        """Write everything but `last` into a new or empty folder: images, plot, noise, numbers (`solution_files.py`).

        Raises:
            ArgumentError: the folder holds something already.
        """
        write_solution(self, Path(folder))
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Solution:
        """Read what `save` wrote, or the directory of a run, also of one that is still running.

        Raises:
            ArgumentError: the folder holds neither, or a file of it cannot be read.
        """
        return cls(**read_parts(Path(folder)))

    def __repr__(self) -> str:
        lines = [f"Solution of {len(self.history)} steps, {self.nfe.forward} denoiser calls, {self.seconds:.1f} s"]
        lines += [f"  {self.method}"] if self.method else []
        for row, status in enumerate(self.status):
            start, best = (describe_reward(float(found[row])) for found in (self.initial.reward, self.reward))
            image = self.image_probability[row]
            likely = f"P(z) {self.probability[row]:.2g}" + ("" if image is None else f", P(image) {image:.2g}")
            asked = shorten(self.about.title(row), 60) if self.about.prompt(row) else ""
            lines.append(f"  row {row}{asked and f' ({asked})'}: reward {start} -> {best}, {likely}; {status.value}")
            if missing := self.shortfall[row]:
                lines.append(f"    {missing}")
            if note := describe_peak(self.history, row):
                lines.append(f"    {note}")
            if self.strict_probability[row] < SUSPECT:
                lines.append(f"    strict P(z) {self.strict_probability[row]:.1g} ({self.suspect[row]}): {ADVICE}")
            hacking = self.hacking[row]
            late = hacking if hacking is not None and hacking.since <= int(self.index[row]) else None
            lines += [f"    {note}" for note in (describe_stall(self.history, row), late) if note]
        lines += [f"  {UNTESTED_IMAGES}: {self.untested}"] if self.untested else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return to_html(self)

    def _repr_png_(self) -> bytes | None:
        from noiseward.images import draw_grid, enlarge, has_images
        from noiseward.images.preview import shrink, to_png

        if not has_images(self.sample):
            return None
        lines = (self.initial_images[:MOST], self.images[:MOST])
        return to_png(draw_grid([[shrink(enlarge(image), SIDE) for image in line] for line in lines]))
