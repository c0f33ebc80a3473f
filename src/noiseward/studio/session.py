"""A session of looks, in a folder: images that vary a noise, and what a person said of them.

    session.json              what is drawn (a spec), how many at a time, and every look with its answer
    looks/003/00.png ...      the images of a look; the last is the center, what is expected to be liked best
    looks/003.safetensors     their noise, from which a run can start: `--start runs/NAME/looks/003.safetensors:2`

What was learned of the taste is not kept: it follows from the answers (`optimizers/preference.py`). A look that is
undone is forgotten, but its number is not used again, so that no image is shown twice.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiseward.errors import ArgumentError, RunError
from noiseward.options.run import RunSpec
from noiseward.runs.files import read_json, replace_file

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from noiseward.noise.layout import Layout
    from noiseward.optimizers.preference import PreferenceSearch

__all__ = ["FILE", "Session", "Shown"]

FILE = "session.json"


@dataclasses.dataclass(frozen=True)
class Shown:
    """A look.

    Attributes:
        number: of its images and random directions.
        spread: how far the images vary, a factor.
        scores: the answer, one number per image; None before there is one.
    """

    number: int
    spread: float = 1.0
    scores: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Session:
    """A session.

    Attributes:
        path: its folder.
        spec: what is drawn; its reward is not used.
        count: images per look.
        looks: all that were not undone.
        drawn: the number of the next look.
    """

    path: Path
    spec: RunSpec
    count: int = 6
    looks: tuple[Shown, ...] = ()
    drawn: int = 0

    @classmethod
    def read(cls, path: Path) -> Session:
        """The session in a folder.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        content = read_json(path / FILE)
        try:
            looks = tuple(
                Shown(one["number"], one["spread"], None if one["scores"] is None else tuple(one["scores"]))
                for one in content["looks"]
            )
            return cls(path, RunSpec(**content["spec"]), content["count"], looks, content["drawn"])
        except (KeyError, TypeError, ArgumentError) as error:
            raise RunError(f"{path / FILE} cannot be read ({error}); begin another session") from None

    def write(self) -> None:
        """Keep it."""
        looks = [dataclasses.asdict(look) for look in self.looks]
        content = {"spec": self.spec.plain(), "count": self.count, "looks": looks, "drawn": self.drawn}
        self.path.mkdir(parents=True, exist_ok=True)
        replace_file(self.path / FILE, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))

    def look(self, spread: float = 1.0) -> Session:
        """The session with another look, to be drawn."""
        shown = Shown(self.drawn, spread)
        return dataclasses.replace(self, looks=(*self.looks, shown), drawn=self.drawn + 1)

    def answer(self, scores: Sequence[float]) -> Session:
        """The session with an answer to its last look.

        Raises:
            ArgumentError: not one score per image.
        """
        if not self.looks or len(scores) != self.count:
            raise ArgumentError(f"expected scores of {self.count} images, got {len(scores)}")
        last = dataclasses.replace(self.looks[-1], scores=tuple(map(float, scores)))
        return dataclasses.replace(self, looks=(*self.looks[:-1], last))

    def undo(self) -> Session:
        """The session before its last answer, whose look is asked about again."""
        looks = self.looks
        if looks and looks[-1].scores is None:
            looks = looks[:-1]
        if not looks:
            return self
        return dataclasses.replace(self, looks=(*looks[:-1], dataclasses.replace(looks[-1], scores=None)))

    def image(self, number: int, row: int) -> Path:
        """Where an image of a look is; the row after the last is the center."""
        return self.path / "looks" / f"{number:03d}" / f"{row:02d}.png"

    def undrawn(self, layout: Layout) -> Iterator[tuple[int, Tensor]]:
        """Yield the number and the noise `(n, *noise_shape)` of each look whose images are not all there."""
        import torch

        for at, shown in enumerate(self.looks):
            if (self.path / "looks" / f"{shown.number:03d}.safetensors").exists():
                continue
            search = self._search(layout, self.looks[:at])
            noise = search.propose(self.count, shown.number, spread=shown.spread).noise
            center = search.center
            yield shown.number, noise if center is None else torch.cat([noise, center[None]])

    def _search(self, layout: Layout, looks: Sequence[Shown]) -> PreferenceSearch:
        from noiseward.loop.start import read_start
        from noiseward.optimizers.preference import PreferenceSearch

        search = PreferenceSearch(layout, self.spec.seed)
        if self.spec.start is not None:
            start = read_start(self.spec.start, layout, 1)[0]
            search = PreferenceSearch.begin(layout, start, seed=self.spec.seed, count=self.count)
        for shown in looks:
            if shown.scores is not None:
                look = search.propose(self.count, shown.number, spread=shown.spread)
                search = search.update(look, shown.scores)
        return search

    def write_image(self, number: int, row: int, image: Image.Image) -> None:
        """Keep an image of a look."""
        file = self.image(number, row)
        os.makedirs(file.parent, exist_ok=True)
        replace_file(file, lambda path: image.save(path, format="PNG"))

    def write_noise(self, number: int, noise: Any) -> None:
        """Keep the noise of a look, which says that all its images are there."""
        from noiseward.runs.files import write_tensors

        target = self.path / "looks" / f"{number:03d}.safetensors"
        write_tensors(target, {"noise": noise.detach().cpu().contiguous()})
