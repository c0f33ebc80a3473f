"""The result of a run: the best noise of each row, its sample, and how it got there."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.budget import Status
from noiseward.loop.describe import ADVICE, SUSPECT, UNTESTED_IMAGES, describe_peak, describe_stall
from noiseward.loop.hacking import Hacking, find_hacked, find_hacking
from noiseward.loop.objective import Evaluation
from noiseward.loop.panel import best_before_hacking
from noiseward.loop.step import Best, Step
from noiseward.noise.layout import Layout
from noiseward.noise.typicality import strict_probability
from noiseward.samplers.cost import NFE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Frames", "Solution"]


class Frames:
    """A few samples along the way, evenly spread whatever its length: every 1st, then 2nd, then 4th ... step.

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
        """Offer the samples `(B, *X)` of a step; a step that is known already is replaced.

        A step whose samples are lost is offered as None: it takes part in the spreading, without a frame.
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
        last: the last step; `iterate(objective, solution.last, ...)` continues from it.
        layout: the sampler's draws.
        untested: why images were not tested, where they were to be; None otherwise.
        method: what was done, where the method left that to model and reward; None otherwise.
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
    untested: str | None = None
    method: str | None = None

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
        """The strict probability of each row's best noise (`typicality.py`); below 1e-3 it hardly passes for noise."""
        return self._strict[0].tolist()

    @property
    def image_probability(self) -> list[float | None]:
        """The probability of each row's best image (`samplers/image_tests.py`); None where it was not tested."""
        return [None if p < 0 else p for p in self.last.best.image.tolist()]

    @property
    def peak(self) -> Best | None:
        """Where results must be plausible, what scored highest, whether it passed or not (`plausible.py`)."""
        return self.last.peak

    @property
    def shortfall(self) -> list[str | None]:
        """What each row's best lacks of what was required, in words; None where it meets all."""
        from noiseward.rewards.shortfall import describe_shortfall

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
        best = self.last.best
        if by == "value":
            return best
        if by != "pareto":
            raise ArgumentError(f"by must be 'value' or 'pareto', got {by!r}")
        if not self.last.peaks:
            raise ArgumentError("by='pareto' needs watched rewards, got none; pass watch=, as in watch=['jpeg']")
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

        return draw_strip(self.initial.sample, list(self.frames), self.sample, self.index.tolist())

    def plot(self, path: str | Path | None = None) -> Image:
        """Plot reward and P(z) against steps; also saved when a path is given."""
        from noiseward.images.plots import plot_history

        plot = plot_history(self.history, hacked=find_hacked(self.history))
        if path is not None:
            plot.save(path)
        return plot

    def save(self, folder: str | Path) -> Path:
        """Write the images, the plot and the noise into a new or empty folder.

        Writes `initial/00.png` ..., `best/00.png` ..., `strip.png`, `plot.png`, `best.safetensors`, `steps.jsonl`.

        Raises:
            ArgumentError: the folder holds something already.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ArgumentError(f"expected a new or empty folder, got {folder}; choose another")
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
        lines += [f"  {self.method}"] if self.method else []
        for row, status in enumerate(self.status):
            start, best, p = float(self.initial.reward[row]), float(self.reward[row]), self.probability[row]
            image = self.image_probability[row]
            likely = f"P(z) {p:.2g}" + ("" if image is None else f", P(image) {image:.2g}")
            lines.append(f"  row {row}: reward {start:.4g} -> {best:.4g}, {likely}; {status.value}")
            if note := describe_peak(self.history, row):
                lines.append(f"    {note}")
            if self.strict_probability[row] < SUSPECT:
                lines.append(f"    strict P(z) {self.strict_probability[row]:.1g} ({self.suspect[row]}): {ADVICE}")
            hacking = self.hacking[row]
            late = hacking if hacking is not None and hacking.since <= int(self.index[row]) else None
            lines += [f"    {note}" for note in (describe_stall(self.history, row), late) if note]
        lines += [f"  {UNTESTED_IMAGES}: {self.untested}"] if self.untested else []
        return "\n".join(lines)
