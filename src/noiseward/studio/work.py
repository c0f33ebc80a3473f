"""What the worker of a studio can do: run, look, render, score."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import numpy
import torch
from PIL import Image

from noiseward.errors import NoisewardError, RunError, describe_error
from noiseward.images import has_images, to_images
from noiseward.images.preview import shrink
from noiseward.loop.budget import Status
from noiseward.loop.step import Step
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import set_threads
from noiseward.pipelines.open import open_sampler
from noiseward.problem import Loaded, prepare_spec
from noiseward.rewards.parse import parse_rewards
from noiseward.rewards.reward import score
from noiseward.runs.extend import Spent, extend
from noiseward.runs.files import lock, replace_file
from noiseward.runs.inputs import locate_inputs
from noiseward.runs.perform import perform
from noiseward.runs.store import RunFolder
from noiseward.samplers.entries import number_prompts
from noiseward.studio.places import Places
from noiseward.studio.session import Session

__all__ = ["Work"]

EVERY = 0.1  # seconds between two writings of the newest images
SIDE = 768  # pixels of these at most
PATIENCE = 30.0  # seconds to wait for a worker of a server that was killed


@final
class Work:
    """Does jobs; models and rewards of the last one are kept for the next."""

    def __init__(self) -> None:
        self._loaded = Loaded()

    def do(self, request: dict[str, Any], stopped: Callable[[], bool]) -> tuple[str, str | None, Any]:
        """Do a job.

        Arguments:
            request: its kind and what that needs.
            stopped: whether it is to stop.

        Returns:
            how it ended (`done`, `interrupted` or `failed`), why it failed, and what it found, as plain data.
        """
        kinds = {"run": self._run, "look": self._look, "render": self._render, "score": self._score}
        try:
            with torch.inference_mode(False):
                state, result = kinds[request["kind"]](request, stopped)
            return state, None, result
        except NoisewardError as error:
            return "failed", describe_error(error, 600), None
        except KeyboardInterrupt:
            return "interrupted", None, None
        except Exception as error:  # the page shows it
            return "failed", f"{type(error).__name__}: {describe_error(error, 600)}", None

    def _run(self, request: dict[str, Any], stopped: Callable[[], bool]) -> tuple[str, Any]:
        """Begin a run, or continue it, perhaps with a larger budget."""
        out = Path(request["out"])
        folder = RunFolder(out)
        _wait(out)
        begun = os.path.lexists(out / "spec.json")
        spec = folder.spec() if begun else RunSpec(**request["spec"])
        if begun and request.get("more"):
            spec = extend(spec, Spent.read(folder), **request["more"])
        set_threads(spec.model)
        problem = prepare_spec(locate_inputs(spec, folder) if begun else spec, self._loaded)
        if stopped():
            return "interrupted", None
        steps = perform(problem, spec, out, besides=("steps", "seconds", "nfe"))
        preview = _Preview(Places(out.parent).live(out))
        while True:
            try:  # a stop that came while nothing was listening is seen before the next step
                preview.show(steps.throw(KeyboardInterrupt()) if stopped() else next(steps))
            except StopIteration as end:
                preview.end()
                return "interrupted" if Status.INTERRUPTED in end.value.status else "done", None

    def _look(self, request: dict[str, Any], stopped: Callable[[], bool]) -> tuple[str, Any]:
        """Draw the images of the newest look of a session, and of its center."""
        session = Session.read(Path(request["out"]))
        spec = session.spec
        set_threads(spec.model)
        opening = {
            "memory": spec.memory,
            "decoder": spec.decoder,
            "call": spec.arguments,
            "loading": spec.loading,
            "conversion": spec.conversion,
        }
        sampler = self._loaded.get("sampler", (spec.model, opening), lambda: open_sampler(spec.model, **opening))
        for number, noise in session.undrawn(sampler.layout):
            rows: list[str] | None = [spec.prompt[0]] * len(noise) if spec.prompt else None
            if sampler.by_row:
                rows = list(number_prompts(rows, len(noise), batch=len(noise)))
            images = []
            for row in range(len(noise)):  # one after the other: images appear as they come, and memory is that of one
                if stopped():
                    return "interrupted", None
                with torch.no_grad():
                    sample = sampler(noise[row : row + 1], None if rows is None else rows[row : row + 1])
                images += to_images(sample)
                session.write_image(number, row, images[-1])
            session.write_noise(number, noise)
        return "done", None

    def _render(self, request: dict[str, Any], stopped: Callable[[], bool]) -> tuple[str, Any]:
        """Render the best noise of a run in another way."""
        from noiseward.runs.rendering import render
        from noiseward.runs.write import save_image

        folder, out = RunFolder(Path(request["run"])), Path(request["out"])
        files, rewards = [], []
        for found in render(folder, seeds=request.get("seeds", 0), **request.get("changes", {})):
            for row, image in enumerate(to_images(found.sample)):
                files.append(str(out / f"{found.neighbor:02d}-{row:02d}.png"))
                rewards.append(found.reward[row].item())
                save_image(Path(files[-1]), image)
            if stopped():
                return "interrupted", None
        return "done", {"files": files, "rewards": rewards}

    def _score(self, request: dict[str, Any], stopped: Callable[[], bool]) -> tuple[str, Any]:
        """Score images by several rewards."""
        from noiseward.images import convert_image

        table: dict[str, list[float]] = {}
        for name in request["rewards"]:
            if stopped():
                return "interrupted", None
            reward = parse_rewards([name])
            table[name] = []
            for file in request["images"]:
                with torch.no_grad():
                    levels = torch.from_numpy(numpy.array(convert_image(Image.open(file))))
                    sample = levels.permute(2, 0, 1)[None] / 255
                    found = score(reward, sample, [request.get("prompt", "")])[0]
                table[name].append(found.item())
        return "done", table


@final
class _Preview:
    """Writes the newest images of a run where the page finds them."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of another run of that name
        self._folder, self._last, self._best = folder, 0.0, -1
        self._step: Step | None = None

    def show(self, step: Step) -> None:
        self._step = step
        if time.monotonic() - self._last >= EVERY:
            self._write(step)

    def end(self) -> None:
        if self._step is not None:
            self._write(self._step)

    def _write(self, step: Step) -> None:
        if not has_images(step.evaluation.sample):
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        newest = int(step.best.index.max())
        if newest != self._best:
            self._save("best", step.best.sample)
            self._best = newest
        self._save("now", step.evaluation.sample)
        self._last = time.monotonic()

    def _save(self, name: str, sample: torch.Tensor) -> None:
        for row, image in enumerate(to_images(sample)):
            small = shrink(image, SIDE)
            replace_file(
                self._folder / f"{name}-{row:02d}.png",
                lambda path, small=small: small.save(path, format="PNG", compress_level=1),
            )


def _wait(out: Path) -> None:
    """Wait until no process holds a directory."""
    until = time.monotonic() + PATIENCE
    while out.is_dir() and time.monotonic() < until:
        try:
            with lock(out):
                return
        except RunError:
            time.sleep(0.2)
