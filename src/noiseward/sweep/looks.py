"""One pack of work, run and put into plain numbers: the function that any engine may call.

Everything that two methods share is made once, in a `Bench`: model, rewards, held-out rewards. A pack is then one batch
of `align` under the method's optimizer and regularizer, watched where its budget is a quarter, half and wholly spent.
What counts at a point is the best so far of a row whose evaluation was paid for by then.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor

from noiseward.api import Problem, prepare
from noiseward.errors import ArgumentError, GradientError, RunError
from noiseward.images import to_images
from noiseward.loop.panel import Panel
from noiseward.loop.step import Best, Step
from noiseward.noise.typicality import strict_probability
from noiseward.options.run import Settings
from noiseward.pipelines.cards import card_of
from noiseward.runs.binding import digest_images
from noiseward.runs.images import open_image
from noiseward.runs.write import has_images, save_image
from noiseward.sweep.comparison import SHARES, CompareSpec, Pack

__all__ = ["Bench", "PackFile", "RefusedPack", "ResultFile", "check_images", "features", "made"]


class Bench:
    """Model and rewards of a comparison, loaded once.

    Arguments:
        spec: what is compared.
    """

    def __init__(self, spec: CompareSpec) -> None:
        self.spec = spec
        settings = Settings(memory=spec.memory, call=spec.call, **spec.loading, **spec.budget())
        problem = prepare(
            spec.model,
            list(spec.prompts[:1]) or None,
            list(spec.reward),
            settings,
            method="best-of-n",
            watch=spec.watch,
        )
        self.sampler, self.reward = problem.objective.sampler, problem.objective.reward
        self.held = problem.panel.rewards

    def problem(self, pack: Pack) -> Problem:
        """What a pack runs.

        Raises:
            ArgumentError, GradientError: the method does not fit the reward or the sampler.
        """
        prompt = [self.spec.prompts[pack.prompt]] if self.spec.prompts else None
        settings = Settings(batch=len(pack.seeds), seed=pack.seeds[0], **self.spec.budget())
        return prepare(self.sampler, prompt, self.reward, settings, method=pack.method, watch=())


def made(bench: Bench, pack: Pack, folder: Path | None = None) -> dict[str, Any]:
    """A pack's results, as plain numbers: lists with one entry per row.

    Arguments:
        bench: model and rewards.
        pack: which rows of which method.
        folder: where the best pictures are put.

    Returns:
        `refused`, why the method does not apply; or `start`, `at` (by share of the budget, as text), `curve` (cost,
        seconds and best rewards so far), `features` of the best samples, `memory` in bytes (None where it cannot be
        measured), `seconds`, `nfe`.
    """
    try:
        problem = bench.problem(pack)
    except (ArgumentError, GradientError) as error:
        return {"refused": str(error)}
    panel = Panel(bench.held, prompt=problem.objective.prompt)
    kind, amount = bench.spec.kind, bench.spec.amount
    curve: dict[str, list[Any]] = {"cost": [], "seconds": [], "reward": []}
    at: dict[str, Any] = {}
    start: dict[str, Any] = {}
    last: Step | None = None
    with peak(problem.noise.device) as memory:
        for step in problem.iterate():
            cost = step.nfe.cost if kind == "nfe" else step.seconds
            for share in SHARES:
                if cost > share * amount and str(share) not in at:
                    at[str(share)] = looked(problem, (last or step).best, panel)
            if not start:
                start = looked(problem, step.best, panel)
            curve["cost"].append(step.nfe.cost)
            curve["seconds"].append(step.seconds)
            curve["reward"].append(step.best.reward.tolist())
            last = step
    assert last is not None  # a run has at least one step
    for share in SHARES:
        at.setdefault(str(share), looked(problem, last.best, panel))
    if folder is not None:
        _keep(last.best.sample, pack, folder)
    return {
        "start": start,
        "at": at,
        "curve": curve,
        "features": features(last.best.sample, bench.spec.model).tolist(),
        "memory": memory(),
        "seconds": last.seconds,
        "nfe": last.nfe.cost,
        "status": [status.name for status in last.status],
        "pixels": None if folder is None else _digests(last.best.sample),
    }


def check_images(result: Mapping[str, Any], pack: Pack, folder: Path, source: Path) -> None:
    """Raise `RunError` unless the images of a pack are those that its results were made with.

    Arguments:
        result: of the pack.
        pack: which.
        folder: where its images are.
        source: the file of its results, as messages name it.
    """
    for seed, known in zip(pack.seeds, result.get("pixels") or (), strict=False):
        file = folder / f"{pack.name}-{seed}.png"
        if digest_images([open_image(file)]) != [known]:
            raise RunError(f"{file} is not the image of {source}: remove both, and give the command again")


def looked(problem: Problem, best: Best, panel: Panel) -> dict[str, Any]:
    """What is to be known of the best so far."""
    return {
        "reward": best.reward.tolist(),
        "held": {name: scores.tolist() for name, scores in panel.scores(best.sample).items()},
        "probability": best.probability.tolist(),
        "strict": strict_probability(best.noise, problem.objective.sampler.layout)[0].tolist(),
    }


@torch.no_grad()
def features(sample: Tensor, model: str) -> Tensor:
    """Features `(B, n)` to tell samples apart: those of the model card's judge, else 8 x 8 pixels."""
    if sample.ndim != 4:
        return sample.detach().float().flatten(1)
    card = card_of(model)
    if card and card.judge:
        from noiseward.rewards.dual_encoder import DualEncoder

        return DualEncoder.load(card.judge, name="judge").encode_images(sample).float()
    return torch.nn.functional.adaptive_avg_pool2d(sample.detach().float(), 8).flatten(1)


@contextlib.contextmanager
def peak(device: torch.device) -> Iterator[Callable[[], int | None]]:
    """For the body of a `with`, how much memory is taken beside what was before; a function that says it, in bytes."""
    said: list[int | None] = []

    def answer() -> int | None:
        return said[0]

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield answer
        said.append(torch.cuda.max_memory_allocated(device) - before)
        return
    before, reset = _process("VmRSS"), False
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        reset = True
    yield answer
    after = _process("VmHWM")
    said.append(max(0, after - before) if reset and before is not None and after is not None else None)


def _process(name: str) -> int | None:
    """A number of this process in bytes, where the system tells."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _keep(sample: Tensor, pack: Pack, folder: Path) -> None:
    if has_images(sample):
        for seed, image in zip(pack.seeds, to_images(sample), strict=True):
            save_image(folder / f"{pack.name}-{seed}.png", image)


def _digests(sample: Tensor) -> list[str] | None:
    return digest_images(to_images(sample)) if has_images(sample) else None


class Look(TypedDict):
    """What is known of the best so far."""

    reward: list[float]
    held: dict[str, list[float]]
    probability: list[float]
    strict: list[float]


class Curve(TypedDict):
    """Cost, seconds and best rewards after each step."""

    cost: list[float]
    seconds: list[float]
    reward: list[list[float]]


class ResultFile(TypedDict):
    """What `made` gives."""

    start: Look
    at: dict[str, Look]
    curve: Curve
    features: list[list[float]]
    memory: int | None
    seconds: float
    nfe: NotRequired[float]
    status: NotRequired[list[str]]
    pixels: NotRequired[list[str] | None]


class RefusedPack(TypedDict):
    """What `made` gives where a method does not apply."""

    refused: str


class PackNamed(TypedDict):
    """Which pack it is."""

    method: str
    prompt: int
    seeds: list[int]


class PackFile(TypedDict):
    """A pack's file."""

    pack: PackNamed
    result: dict[str, Any]
