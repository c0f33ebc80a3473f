"""One step of the loop as a record: what was evaluated, what is best so far, and what is needed to continue."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from noiseward.loop.budget import FINAL, Status
from noiseward.loop.objective import Evaluation
from noiseward.loop.optimizer import State
from noiseward.loop.plausible import Plausible, Verdict
from noiseward.samplers.cost import NFE

__all__ = ["TESTS", "Best", "Checkpoint", "Step", "select_rows"]

TESTS = ("strict", "image")  # the fields of `Best` that hold what the tests said


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation of each row so far, with its noise.

    Attributes:
        noise: `(B, *noise_shape)`.
        sample: `(B, *X)`.
        reward, value: `(B,)`; -inf for a row that was never finite.
        probability: P(z) of that noise, `(B,)`.
        index: `(B,)`, the step it was found at.
        strict, image: what the tests said, `(B,)`, float64 (`plausible.py`); -1 where they were not made.
    """

    noise: Tensor
    sample: Tensor
    reward: Tensor
    value: Tensor
    probability: Tensor
    index: Tensor
    strict: Tensor
    image: Tensor

    def update(
        self,
        new: Best,
        allowed: Tensor,
        *,
        min_probability: float | None = None,
        plausible: Plausible | None = None,
    ) -> Best:
        """The better of this and a new one, for each row that may change.

        Arguments:
            new: an evaluation, with its noise, P(z) and step.
            allowed: `(B,)`.
            min_probability: the P(z) to keep, if the regularizer has one.
            plausible: what a result must pass, if it must.
        """
        better = new.value > self.value
        if min_probability is not None:
            met, met_before = new.probability >= min_probability, self.probability >= min_probability
            higher = torch.where(met, new.reward > self.reward, new.probability > self.probability)
            better = torch.where(met == met_before, higher, met) | ~self.value.isfinite()
        if plausible is not None:
            met, met_before = (plausible.passes(one.strict, one.image).to(better.device) for one in (new, self))
            better = met & (better | ~met_before) | ~self.value.isfinite()
        return new.select(allowed & new.value.isfinite() & better, self)

    def select(self, rows: Tensor, other: Best) -> Best:
        """This where `rows` `(B,)` is true, another elsewhere."""
        names = (field.name for field in dataclasses.fields(self))
        return Best(**{name: select_rows(rows, getattr(self, name), getattr(other, name)) for name in names})


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What the loop needs to continue, before an evaluation. The fields are those of `Step`."""

    index: int
    noise: Tensor
    state: State
    status: tuple[Status, ...]
    best: Best | None
    nfe: NFE
    seconds: float
    pace: tuple[float, int]
    multiplier: Tensor | None = None
    peak: Best | None = None
    untested: str | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the loop, and all that is needed to continue from it.

    Attributes:
        index: k.
        noise, evaluation: :math:`z_k` and its evaluation.
        probability: P(z) of this noise, `(B,)`.
        info: what the optimizer logged, each `(B,)` (see `Move`); empty after the last evaluation.
        next_noise: :math:`z_{k+1}`; None after the last evaluation.
        state: the optimizer's state for `next_noise`, or for `noise` where that is None.
        status: one per row.
        best: the best of each row up to here.
        spent: denoiser calls of this step alone.
        before: denoiser calls of the run before it.
        seconds: wall time of the run up to here.
        pace: seconds and NFE cost of a step, as the budget expects them (see `update_pace`).
        watched: scores of held-out rewards, each `(B,)`, by name, where a panel scored this step (`panel.py`).
        peaks: for each of them the best of each row up to the step where that reward was last highest.
        silent: those of them that are shown but do not vote (`panel.py`).
        multiplier: of the next step's penalty, `(B,)`, where the regularizer has a minimum probability.
        verdict: what the tests say of this step, where results must pass them (`plausible.py`).
        peak: then the highest value of each row, whether it passed or not.
        untested: why images are not tested, where they were to be; None otherwise.

    Example:
        >>> from noiseward import steps
        >>> for step in steps("stickers", "a duck", "brightness", steps=1, num_inference_steps=4, progress=False):
        ...     print(step.index, step.evaluation.reward.shape, step.status[0].name)
        0 torch.Size([1]) RUNNING
        1 torch.Size([1]) STEPS
    """

    index: int
    noise: Tensor
    evaluation: Evaluation
    probability: Tensor
    info: dict[str, Tensor]
    next_noise: Tensor | None
    state: State
    status: tuple[Status, ...]
    best: Best
    spent: NFE
    before: NFE
    seconds: float
    pace: tuple[float, int]
    watched: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    peaks: dict[str, Best] = dataclasses.field(default_factory=dict)
    silent: tuple[str, ...] = ()
    multiplier: Tensor | None = None
    verdict: Verdict | None = None
    peak: Best | None = None
    untested: str | None = None

    @property
    def grad_norm(self) -> Tensor | None:
        """Norm of the direction before clipping, `(B,)`; None where none was computed."""
        return self.info.get("grad_norm")

    @property
    def nfe(self) -> NFE:
        """Denoiser calls of the run up to here."""
        return self.before + self.spent

    @property
    def checkpoint(self) -> Checkpoint:
        """What is needed to continue after this step; after one without `next_noise`, to repeat it."""
        status = tuple(old if old in FINAL else Status.RUNNING for old in self.status)
        index, noise, nfe = self.index + 1, self.next_noise, self.nfe
        if noise is None:
            index, noise, nfe = self.index, self.noise, self.before
        kept = (self.multiplier, self.peak, self.untested)
        return Checkpoint(index, noise, self.state, status, self.best, nfe, self.seconds, self.pace, *kept)

    def record(self) -> dict[str, Any]:
        """The step as plain numbers: what `steps.jsonl` and `Solution.history` hold."""
        evaluation = self.evaluation
        scores = {name: held.tolist() for name, held in self.watched.items()}
        return {
            "index": self.index,
            "seconds": self.seconds,
            "nfe": dataclasses.asdict(self.nfe),
            "reward": evaluation.reward.tolist(),
            "terms": {name: term.tolist() for name, term in evaluation.terms.items()},
            "penalty": evaluation.penalty.tolist(),
            "value": evaluation.value.tolist(),
            "probability": self.probability.tolist(),
            "grad_norm": None if self.grad_norm is None else self.grad_norm.tolist(),
            "found": self.best.index.tolist(),
            **({} if self.verdict is None else self.verdict.record()),
            **({"watched": scores, "silent": list(self.silent)} if scores else {}),
        }


def select_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of `yes` where `rows` is true, of `no` elsewhere, where `yes` is."""
    return torch.where(rows.to(yes.device).view(-1, *(1,) * (yes.ndim - 1)), yes, no.to(yes.device))
