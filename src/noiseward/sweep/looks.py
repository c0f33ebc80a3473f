"""What a comparison measures of a run: at its start, and where a quarter, half and all of its budget are spent.

What counts at a point is the best so far of each row whose evaluation was paid for by then. It is written to
`looks.json` in the run directory before the step that crosses the point is logged, so a run that was killed continues
without measuring again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, final

import torch
from torch import Tensor

from noiseward.errors import RunError
from noiseward.loop.plausible import Plausible
from noiseward.loop.step import Best, Checkpoint, Step
from noiseward.noise.typicality import strict_probability
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of
from noiseward.problem import Problem
from noiseward.runs.binding import seal, unseal
from noiseward.runs.files import read_json, replace_file
from noiseward.runs.record import RunRecord
from noiseward.runs.schema import check
from noiseward.runs.spec import run_id
from noiseward.runs.store import RunFolder
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.reference_store import ReferenceStore
from noiseward.sweep.packs import Pack

__all__ = ["SHARES", "Look", "Looks", "Measurements", "read_looks"]

SHARES = (0.25, 0.5, 1.0)  # of the budget
FILE = "looks.json"


class Look(TypedDict):
    """The best so far, with an entry per row: reward, held-out rewards by name, P(z), the strict probability, and at
    the end of the budget P(image), None where there is no such test."""

    reward: list[float]
    held: dict[str, list[float]]
    probability: list[float]
    strict: list[float]
    image: NotRequired[list[float | None]]


class LooksFile(TypedDict):
    """`looks.json` but for `features`; `at` is by share of the budget as text."""

    start: Look
    at: dict[str, Look]
    memory: int | None


@dataclasses.dataclass(frozen=True)
class Measurements:
    """What was measured of a run.

    Attributes:
        start: the first evaluation.
        at: the best so far by share of the budget, as text.
        cost, seconds, reward: spent after each step, and each row's best reward by then.
        features: of the best samples, per row.
        memory: its peak in bytes, in addition to what was there before; None where it cannot be measured.
    """

    start: Look
    at: dict[str, Look]
    cost: list[int]
    seconds: list[float]
    reward: list[list[float]]
    features: list[list[float]]
    memory: int | None


@final
class Looks:
    """Measures a run as its steps pass.

    Arguments:
        problem: the run, with a panel of the held-out rewards to measure.
        spec: what was asked; its limit in `nfe` or `seconds` is the budget.
        path: the run directory.

    Raises:
        RunError: the run was begun, and what was measured is damaged.
    """

    def __init__(self, problem: Problem, spec: RunSpec, path: Path) -> None:
        self._panel, self._objective = problem.panel, problem.objective
        self._spec, self._device = spec, problem.noise.device
        self._path, self._run = path / FILE, run_id(spec.replace(method=problem.method))
        self._read()

    def observe(self, steps: Iterator[Step], checkpoint: Checkpoint | None) -> Iterator[Step]:
        """Pass steps on, and measure at the start and where they cross a share of the budget.

        Arguments:
            steps: of the run, or of the rest of it.
            checkpoint: where a run that is resumed continues.

        Raises:
            RunError: the run is resumed, and what was measured before is missing.
        """
        known = self._read()  # again: only now no other process writes it
        if known is None and checkpoint is not None and checkpoint.index > 0:
            raise RunError(f"{self._path} is missing; remove {self._path.parent}, and give the command again")
        content, best = known or {"at": {}}, checkpoint.best if checkpoint else None
        memory = _Memory(self._device, content.get("memory"))
        for step in steps:
            best = best or step.best
            spent = step.nfe.cost if self._spec.nfe is not None else step.seconds
            limit = self._spec.nfe if self._spec.nfe is not None else self._spec.seconds or 0.0
            crossed = [share for share in SHARES if spent > share * limit and str(share) not in content["at"]]
            if crossed:
                content["at"] |= self._look_at(crossed, best)
            is_start = "start" not in content
            if is_start:
                content["start"] = self._look(step.best)
            if crossed or is_start:
                self._write({**content, "memory": memory.read()})
            best = step.best
            yield step
        if best is not None and "features" not in content:
            content["at"] |= self._look_at([share for share in SHARES if str(share) not in content["at"]], best)
            content["memory"] = memory.read()
            self._write({**content, "features": _features(best.sample, self._spec.model).tolist()})

    def _read(self) -> dict[str, Any] | None:
        return _read(self._path, self._run, self._spec.rows) if self._path.exists() else None

    def _look_at(self, shares: Sequence[float], best: Best) -> dict[str, Look]:
        """The best at some shares of the budget; images are tested at its end, where that takes nothing from it."""
        if not shares:
            return {}
        looks = dict.fromkeys(map(str, shares), self._look(best))
        if shares[-1] == SHARES[-1]:
            looks[str(shares[-1])] = {**looks[str(shares[-1])], "image": self._test_images(best)}
        return looks

    def _test_images(self, best: Best) -> list[float | None]:
        """P(image) of each row, by the default test, whatever the method itself is held to."""
        own = self._objective
        known = own.plausible is not None and own.plausible.fresh == Plausible.fresh
        test = known and own.image_test or Plausible().image_test(own.sampler, store=ReferenceStore.default())
        assert test
        with count_calls(apart=True):
            found = test(best.noise, None, own.prompt)
        return [None if math.isnan(p) else p for p in found.tolist()]

    def _look(self, best: Best) -> Look:
        return {
            "reward": best.reward.tolist(),
            "held": {name: scores.tolist() for name, scores in self._panel.scores(best.sample).items()},
            "probability": best.probability.tolist(),
            "strict": strict_probability(best.noise, self._objective.sampler.layout)[0].tolist(),
        }

    def _write(self, content: dict[str, Any]) -> None:
        replace_file(self._path, lambda path: path.write_text(json.dumps(seal(content, self._run)) + "\n"))


def read_looks(folder: RunFolder, run: RunRecord, pack: Pack) -> Measurements:
    """What was measured of a run that is done.

    Arguments:
        folder: of the run.
        run: what it says.
        pack: which it is.

    Raises:
        RunError: it is missing, damaged, incomplete, or does not fit the run.
    """
    path = folder.path / FILE
    content = _read(path, run_id(run.spec), run.spec.rows)
    by_index = {record["index"]: record["reward"] for record in run.steps}
    found = Measurements(
        start=content["start"],
        at=content["at"],
        cost=[NFE(**record["nfe"]).cost for record in run.steps],
        seconds=[record["seconds"] for record in run.steps],
        reward=[
            [_finite(by_index[index][row]) for row, index in enumerate(record["found"])] for record in run.steps
        ],
        features=content.get("features", []),
        memory=content["memory"],
    )  # fmt: skip
    held = {tuple(look["held"]) for look in (found.start, *found.at.values())}
    complete = found.features and set(found.at) == set(map(str, SHARES)) and len(held) == 1
    if not complete or len(held.pop()) != len(pack.measure or ()) or not _is_paid(found, pack.spec.nfe):
        raise RunError(f"{path} does not fit the run; remove {folder.path}, and give the command again")
    return found


def _is_paid(found: Measurements, nfe: int | None) -> bool:
    """Whether each reward is the best that was paid for; in seconds, which differ after a resume, this is unknown."""
    best = {share: found.start["reward"] for share in found.at}
    for cost, reward in zip(found.cost, found.reward, strict=True):
        best |= {share: reward for share in best if nfe is not None and cost <= float(share) * nfe}
    return nfe is None or all(look["reward"] == best[share] for share, look in found.at.items())


def _read(path: Path, run: str | None, rows: int) -> dict[str, Any]:
    content = read_json(path)
    check(content, LooksFile, path, rows=rows)
    features = content.get("features", [[]] * rows)
    check(features, list[list[float]], path)
    if len(features) != rows or len(set(map(len, features))) > 1:
        raise RunError(f"{path}: expected as many 'features' for each of {rows} rows, got others; restore it")
    return unseal(content, path, run=run)


def _finite(reward: float) -> float:
    """A reward; a row that was never finite has -inf."""
    return reward if abs(reward) < torch.inf else -torch.inf


@torch.no_grad()
def _features(sample: Tensor, model: str) -> Tensor:
    """Features `(B, n)` to tell samples apart: those of the model card's judge, else 8 x 8 pixels."""
    if sample.ndim != 4:
        return sample.detach().float().flatten(1)
    card = card_of(model)
    if card and card.judge:
        from noiseward.rewards.dual_encoder import DualEncoder

        return DualEncoder.load(card.judge, name="judge").encode_images(sample).float()
    return torch.nn.functional.adaptive_avg_pool2d(sample.detach().float(), 8).flatten(1)


class _Memory:
    """Measures how much memory is taken from now on, at its peak."""

    def __init__(self, device: torch.device, before: int | None) -> None:
        self._device, self._most = device, before
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._begin = torch.cuda.memory_allocated(device)
            return
        self._begin = None
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            self._begin = _process("VmRSS")

    def read(self) -> int | None:
        """The peak in bytes, or that of the part before where it was higher; None where it cannot be measured."""
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _process("VmHWM")
        if peak is not None and self._begin is not None:
            self._most = max(self._most or 0, peak - self._begin)
        return self._most


def _process(name: str) -> int | None:
    """A number of this process in bytes, where the system tells."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
