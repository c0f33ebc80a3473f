r"""The loop: an **optimizer** moves the noise uphill, step by step, until a budget is spent.

:func:`iterate` is the one loop of this library. It is a generator: progress bars, run directories, early stops and
notebooks are all consumers of the same :class:`Step`; there are no callbacks. N moves are N + 1 evaluations, the last
of which is forward only:

.. math::
    (e_k, z_{k+1}, s_{k+1}) = \mathrm{step}(z_k, s_k), \quad k = 0 \dots N-1; \qquad e_N = \mathrm{evaluate}(z_N).

*Pair law.* A step holds the noise :math:`z_k` and the evaluation :math:`e_k` of that very noise, never of the next one;
the best so far is kept per row the same way, so that a result is never worse than its start. Best is what has the
highest value. Where the regularizer has a minimum for P(z), its weight changes along the way and values do not compare:
then best is the highest reward among the steps that meet it, and the highest P(z) while none does.

*Row law.* A row that reached the wanted reward, or whose reward or noise became non-finite, is frozen: it stays in the
batch, does not move, and its neighbours do not notice.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import RewardError
from noiseward.loop.budget import Budget, Status, update_pace
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Seeds
from noiseward.noise.regularize import adapt_multiplier, probability
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.memory import attempt

__all__ = ["Best", "Move", "Optimizer", "Checkpoint", "State", "Step", "iterate", "select_rows"]

State = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Move:
    """What one step of an optimizer returns, row by row.

    Attributes:
        evaluation: of the noise the step started from.
        noise: the next noise, `(B, *noise_shape)`.
        state: what the next step needs, and nothing else: tensors whose first axis is the row.
        info: numbers that are only logged, each `(B,)`: `grad_norm`, the norm of the direction before clipping.
    """

    evaluation: Evaluation
    noise: Tensor
    state: State
    info: dict[str, Tensor] = dataclasses.field(default_factory=dict)


class Optimizer(abc.ABC):
    """Proposes the next noise. Its state is plain data: tensors whose first axis is the row."""

    @abc.abstractmethod
    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        """Evaluate `noise` and propose the next one.

        A pure function: nothing is kept between calls. The first call gets an empty state. Row i of each result
        depends on row i of each argument alone.
        """

    @abc.abstractmethod
    def check(self, objective: Objective) -> None:
        """Raise if this optimizer cannot optimize that objective, before anything is computed."""


@dataclasses.dataclass(frozen=True)
class Best:
    """The best evaluation of each row so far, with the noise it was made from.

    Attributes:
        noise: `(B, *noise_shape)`.
        sample: `(B, *X)`.
        reward, value: `(B,)`; -inf for a row that was never finite.
        probability: P(z) of that noise, `(B,)`.
        index: `(B,)`, the step it was found at.
    """

    noise: Tensor
    sample: Tensor
    reward: Tensor
    value: Tensor
    probability: Tensor
    index: Tensor

    def update(self, new: Best, allowed: Tensor, min_probability: float | None = None) -> Best:
        """The better of this and a new one, for each row that is allowed to change.

        Arguments:
            new: an evaluation, with its noise, P(z) and step.
            allowed: `(B,)`.
            min_probability: the P(z) to keep, if the regularizer has one.
        """
        better = new.value > self.value
        if min_probability is not None:
            met, was = new.probability >= min_probability, self.probability >= min_probability
            higher = torch.where(met, new.reward > self.reward, new.probability > self.probability)
            better = torch.where(met == was, higher, met) | ~self.value.isfinite()
        better = allowed & new.value.isfinite() & better
        fields = (field.name for field in dataclasses.fields(self))
        return Best(**{name: select_rows(better, getattr(new, name), getattr(self, name)) for name in fields})


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


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the loop, and all that is needed to go on from it.

    Attributes:
        index: k.
        noise, evaluation: :math:`z_k` and its evaluation.
        probability: P(z) of this noise, `(B,)`.
        info: what the optimizer logged, each `(B,)` (see `Move`); empty after the last evaluation.
        next_noise: :math:`z_{k+1}`; None after the last evaluation.
        state: the optimizer's state that goes with `next_noise`, or with `noise` where that is None.
        status: one per row.
        best: the best of each row up to here.
        spent: denoiser calls of this step alone.
        before: denoiser calls of the run before it.
        seconds: spent by the run up to here.
        pace: seconds and NFE cost of the dearest move of late (see `update_pace`).
        watched: scores of held-out rewards, each `(B,)`, by name, where a panel watched this step (`panel.py`).
        peaks: for each of them the best of each row up to the step where that reward was last highest.
        silent: those of them that have no say (`panel.py`).
        multiplier: what the next step multiplies the penalty by, `(B,)`, with a minimum probability.
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
        """Where the loop stands after this step; after one without `next_noise`, before it."""
        status = tuple(old if old is Status.NONFINITE else Status.RUNNING for old in self.status)
        index, noise, nfe = self.index + 1, self.next_noise, self.nfe
        if noise is None:
            index, noise, nfe = self.index, self.noise, self.before
        return Checkpoint(index, noise, self.state, status, self.best, nfe, self.seconds, self.pace, self.multiplier)

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
            **({"watched": scores, "silent": list(self.silent), "found": self.best.index.tolist()} if scores else {}),
        }


@torch.inference_mode(False)
def iterate(
    objective: Objective,
    start: Tensor | Step | Checkpoint,
    *,
    optimizer: Optimizer,
    budget: Budget,
    seeds: Seeds | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
    """Climb, yielding every step.

    Arguments:
        objective: what to climb.
        start: noise `(B, *noise_shape)`, or a `Step` (or its `Checkpoint`) to go on from: bit for bit as if the run had
            never stopped. After a run's last step, whose evaluation was forward only, that noise is evaluated once
            more.
        optimizer: how to move.
        budget: when to stop.
        seeds: randomness of the optimizer, one seed per row; default: the row numbers.
        clock: seconds that only grow.

    Yields:
        `Step` 0, 1, ...; the last one has no `next_noise`.

    Raises:
        OutOfMemory: at some step; the one before is where to go on, with a sampler that takes less.

    Example:
        >>> from noiseward.optimizers.ascend import GradientAscent
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> sampler = GaussianModel(steps=4).sampler()
        >>> objective = Objective(sampler, Quadratic(1.0))
        >>> for step in iterate(objective, sampler.init(2), optimizer=GradientAscent(lr=0.1), budget=Budget(steps=2)):
        ...     print(step.index, step.nfe.forward, step.next_noise is None)
        0 4 False
        1 8 False
        2 12 True
    """
    optimizer.check(objective)
    layout, min_probability = objective.sampler.layout, objective.regularizer.min_probability
    at = start.checkpoint if isinstance(start, Step) else start if isinstance(start, Checkpoint) else _begin(start)
    if at.noise.is_inference():  # made inside torch.inference_mode(): such a tensor never has a gradient
        at = dataclasses.replace(at, noise=at.noise.clone())
    layout.check(at.noise)
    objective.regularizer.check(layout)
    seeds = seeds or Seeds(tuple(range(at.noise.shape[0])))
    begun = clock() - at.seconds
    while True:
        now = clock()
        over = budget.spent(at.index, now - begun, at.nfe, at.pace)
        weighed = objective if at.multiplier is None else objective.weighed(at.multiplier)
        compute = functools.partial(_compute, over, optimizer, weighed, at, seeds.at(at.index))
        with count_calls() as meter:
            evaluation, move = attempt(compute, f"at step {at.index}", objective.sampler.lighter)
        likely = probability(at.noise, layout).to(evaluation.value.device)
        new = _found(at.index, at.noise, evaluation, likely)
        best = (at.best or _worst(new, objective)).update(new, _running(at.status, evaluation.value), min_probability)
        met = likely >= min_probability if min_probability is not None else torch.ones_like(likely, dtype=torch.bool)
        status = _judge(at.status, evaluation, _sound(evaluation, move), met, budget, over)
        next_noise, state, multiplier = None, at.state, at.multiplier
        running = _running(status, at.noise)
        if move is not None and running.any():
            next_noise, state = select_rows(running, move.noise, at.noise), _select(running, move.state, at.state)
            if min_probability is not None:
                before = torch.ones_like(likely) if multiplier is None else multiplier
                multiplier = adapt_multiplier(before, likely, min_probability)
                multiplier = multiplier if at.multiplier is None else select_rows(running, multiplier, at.multiplier)
        seconds = clock() - begun
        pace = at.pace if over else update_pace(at.pace, seconds + begun - now, meter.nfe.cost)
        step = Step(
            index=at.index,
            noise=at.noise,
            evaluation=evaluation,
            probability=likely,
            info={} if move is None else move.info,
            next_noise=next_noise,
            state=state,
            status=status,
            best=best,
            spent=meter.nfe,
            before=at.nfe,
            seconds=seconds,
            pace=pace,
            multiplier=multiplier,
        )
        yield step
        if next_noise is None:
            return
        at = step.checkpoint


def _compute(
    over: Status | None, optimizer: Optimizer, objective: Objective, at: Checkpoint, seeds: Seeds
) -> tuple[Evaluation, Move | None]:
    """One step of the optimizer; or, once the budget is spent, the evaluation that closes the run."""
    if over is None:
        move = optimizer.step(objective, at.noise, at.state, seeds)
        return move.evaluation, move
    with torch.no_grad():
        return objective(at.noise), None


def _begin(noise: Tensor) -> Checkpoint:
    return Checkpoint(0, noise.detach(), {}, (Status.RUNNING,) * noise.shape[0], None, NFE(), 0.0, (0.0, 0))


def _found(index: int, noise: Tensor, evaluation: Evaluation, likely: Tensor) -> Best:
    """An evaluation as a candidate for the best."""
    found = torch.full((noise.shape[0],), index, device=noise.device)
    return Best(noise, evaluation.sample, evaluation.reward, evaluation.value, likely, found)


def _worst(first: Best, objective: Objective) -> Best:
    """A best that anything finite improves on."""
    if not first.value.isfinite().any():
        raise RewardError(
            f"reward '{objective.reward.name}' is {first.reward[0].item()} for every row at the start: a finite "
            "number per row is wanted; check the reward, and the model's precision if its sample is not finite"
        )
    worst = torch.full_like(first.value, -torch.inf)
    return dataclasses.replace(first, reward=worst, value=worst, index=torch.zeros_like(first.index))


def _running(status: Sequence[Status], like: Tensor) -> Tensor:
    return torch.tensor([one is Status.RUNNING for one in status], device=like.device)


def _sound(evaluation: Evaluation, move: Move | None) -> list[bool]:
    """Whether each row's value, next noise and direction are finite."""
    sound = evaluation.value.isfinite()
    if move is not None:
        sound = sound & move.noise.isfinite().flatten(1).all(1).to(sound.device)
        if (grad_norm := move.info.get("grad_norm")) is not None:
            sound = sound & grad_norm.isfinite().to(sound.device)
    return sound.tolist()


def _select(rows: Tensor, new: State, old: State) -> State:
    """The new state in some rows, the old one elsewhere."""
    return {name: select_rows(rows, part, old[name]) if name in old else part for name, part in new.items()}


def _judge(
    status: Sequence[Status],
    evaluation: Evaluation,
    sound: Sequence[bool],
    met: Tensor,
    budget: Budget,
    over: Status | None,
) -> tuple[Status, ...]:
    """The status of each row after an evaluation; rows that stopped before stay as they are."""
    wanted = evaluation.value.isfinite() & met
    wanted = wanted & (evaluation.reward >= budget.reward) if budget.reward is not None else torch.zeros_like(wanted)
    judged = []
    for old, fine, done in zip(status, sound, wanted.tolist(), strict=True):
        if old is not Status.RUNNING:
            judged.append(old)
        elif done:
            judged.append(Status.REWARD)
        elif not fine:
            judged.append(Status.NONFINITE)
        else:
            judged.append(over or Status.RUNNING)
    return tuple(judged)


def select_rows(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Rows of `yes` where `rows` is true, of `no` elsewhere."""
    return torch.where(rows.to(yes.device).view(-1, *(1,) * (yes.ndim - 1)), yes, no)
