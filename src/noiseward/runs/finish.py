"""How a run directory ends: with its closing images and plots and a final status, or with the error that ended it."""

from __future__ import annotations

import contextlib
from typing import Any

from noiseward.errors import NoisewardError, RunError
from noiseward.images import has_images, to_images
from noiseward.images.metadata import FORMATS
from noiseward.loop.budget import Status
from noiseward.loop.solution import Solution
from noiseward.loop.solution_files import copy_tensors
from noiseward.loop.step import Best
from noiseward.runs.binding import mark
from noiseward.runs.describe import about_spec
from noiseward.runs.files import replace_file, write_tensors
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder
from noiseward.runs.write import save_images, save_json

__all__ = ["fail", "finish", "interrupt", "summarize"]


def finish(folder: RunFolder, solution: Solution, state: str, *, plots: bool = True) -> None:
    """Write the closing images, with strip and plot if asked for, and the final status."""
    path, run = folder.path, run_id(folder.spec())
    about, before = about_spec(folder.spec()), solution.initial.reward.tolist()

    def save(name: str, best: Best) -> None:
        images = to_images(best.sample)
        known = about.describe(images[0].size, before, best.reward.tolist(), steps=best.index.tolist())
        for kind in FORMATS:
            if kind == "png" or (path / name / f"00.{kind}").exists():  # `align --format` wrote it, too
                save_images(path / name, images, known=known, kind=kind)

    if has_images(solution.sample):
        save("best", solution.found)
    if any(solution.hacking):
        pareto = solution.best(by="pareto")
        found = copy_tensors(vars(pareto))
        write_tensors(path / "pareto.safetensors", found, mark(found, run))
        if has_images(pareto.sample):
            save("pareto", pareto)
    if plots:
        if has_images(solution.sample):
            replace_file(path / "strip.png", lambda beside: solution.strip().save(beside, format="PNG"))
        replace_file(path / "plot.png", lambda beside: solution.plot().save(beside, format="PNG"))
    save_json(path / "status.json", {"state": state, **summarize(solution)}, run)


def fail(folder: RunFolder, error: Exception) -> None:
    """Note in a directory that was begun that the run ended with an error; never raises."""
    with contextlib.suppress(NoisewardError):
        spec, known = folder.spec(), {}
        with contextlib.suppress(RunError):
            known = folder.read("status.json")
        save_json(folder.path / "status.json", {**known, "state": "failed", "error": str(error)}, run_id(spec))


def interrupt(folder: RunFolder) -> None:
    """Note in the directory of a run that it was resumed and interrupted before its first step; never raises."""
    with contextlib.suppress(NoisewardError):
        spec, known = folder.spec(), folder.read("status.json")
        if known.get("state") == "running" and "rows" in known:
            rows = [Status.INTERRUPTED.name if row == Status.RUNNING.name else row for row in known["rows"]]
            save_json(folder.path / "status.json", {**known, "state": "interrupted", "rows": rows}, run_id(spec))


def summarize(solution: Solution) -> dict[str, Any]:
    """How a run ended, as `status.json` holds it."""
    return {
        "step": solution.history[-1]["index"],
        "seconds": solution.seconds,
        "best": solution.reward.tolist(),
        "found": solution.index.tolist(),
        "rows": [status.name for status in solution.status],
        "dead_draws": list(solution.dead_draws),
        "strict": solution.strict_probability,
        "image": solution.image_probability,
        **({"untested": solution.untested} if solution.untested else {}),
        "suspect": solution.suspect,
    }
