r"""The loop: an **optimizer** changes the noise step by step, until a budget is spent.

:func:`iterate` is the one loop of this library. It is a generator: progress bars, run directories, early stops and
notebooks are all consumers of the same :class:`Step`; there are no callbacks. N steps are N + 1 evaluations, the last
of which is forward only:

.. math::
    (e_k, z_{k+1}, s_{k+1}) = \mathrm{step}(z_k, s_k), \quad k = 0 \dots N-1; \qquad e_N = \mathrm{evaluate}(z_N).

*Pair law.* A step holds the noise :math:`z_k` and the evaluation :math:`e_k` of that very noise, never of the next one,
and so does the best so far of each row: a result is never worse than its start. Best is the highest value. Where the
regularizer has a minimum probability, its weight changes along the way and values do not compare: then best is the
highest reward among the steps that meet it, and the highest P(z) while none does. Where results must be plausible
(`plausible.py`), best is the highest value among those that pass; the start is best until one does.

*Row law.* A row that reached the target reward, or whose reward or noise became non-finite, is frozen: it stays in the
batch unchanged, and its neighbors are not affected.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from noiseward.errors import RewardError
from noiseward.loop.budget import Budget, Status, update_pace
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.loop.plausible import UNTESTED, Verdict
from noiseward.loop.step import Best, Checkpoint, Step, select_rows
from noiseward.noise.layout import Seeds
from noiseward.noise.regularize import adapt_multiplier, probability
from noiseward.samplers.cost import NFE, count_calls
from noiseward.samplers.memory import attempt
from noiseward.samplers.state import is_compiled

__all__ = ["iterate"]


@torch.inference_mode(False)
def iterate(
    objective: Objective,
    start: Tensor | Step | Checkpoint,
    *,
    optimizer: Optimizer,
    budget: Budget,
    seeds: Seeds | None = None,
    ended: Mapping[int, Status] = MappingProxyType({}),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Step]:
    """Optimize, yielding every step.

    Arguments:
        objective: what to maximize.
        start: noise `(B, *noise_shape)`, or a `Step` (or its `Checkpoint`) to continue from: bit for bit as if the run
            had never stopped. After a run's last step, whose evaluation was forward only, that noise is evaluated once
            more.
        optimizer: what proposes the next noise.
        budget: when to stop.
        seeds: randomness of the optimizer, one seed per row; default: the row numbers.
        ended: rows that the caller ended, and why; read before every step.
        clock: seconds that only grow.

    Yields:
        `Step` 0, 1, ...; the last one has no `next_noise`.

    Raises:
        OutOfMemory: at some step; continue from the one before, with a sampler that needs less.

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
    layout, plausible = objective.sampler.layout, objective.plausible
    min_probability = objective.regularizer.min_probability
    at = start.checkpoint if isinstance(start, Step) else start if isinstance(start, Checkpoint) else _begin(start)
    if at.noise.is_inference():  # made inside torch.inference_mode(): such a tensor never has a gradient
        at = dataclasses.replace(at, noise=at.noise.clone())
    layout.check(at.noise)
    objective.regularizer.check(layout)
    seeds = seeds or Seeds(tuple(range(at.noise.shape[0])))
    began = clock() - at.seconds
    warms_up = is_compiled(objective.sampler.modules.values())
    while True:
        now = clock()
        if ended:
            status = tuple(ended.get(row, old) for row, old in enumerate(at.status))
            at = dataclasses.replace(at, status=status)
        over = budget.stop_reason(at.index, now - began, at.nfe, at.pace)
        weighted = objective if at.multiplier is None else objective.with_multiplier(at.multiplier)
        compute = functools.partial(_compute, over, optimizer, weighted, at, seeds.at(at.index))
        before_step = _calibration(objective)
        with count_calls() as meter:
            evaluation, move, verdict = attempt(compute, f"at step {at.index}", objective.sampler.lighter)
        p = probability(at.noise, layout).to(evaluation.value.device)
        index = torch.full((at.noise.shape[0],), at.index, device=at.noise.device)
        tests = (torch.full_like(p, UNTESTED, dtype=torch.float64, device="cpu"),) * 2
        tests = tests if verdict is None else (verdict.strict, verdict.image)
        new, allowed = Best(at.noise, *_scores(evaluation), p, index, *tests), _running(at.status, p)
        before = _worst(new, objective) if at.best is None else at.best
        best = before.update(new, allowed, min_probability=min_probability, plausible=plausible)
        peak = None if plausible is None else (at.peak or before).update(new, allowed)
        met = p >= min_probability if min_probability is not None else torch.ones_like(p, dtype=torch.bool)
        if verdict is not None and plausible is not None:
            met = met & plausible.passes(verdict.strict, verdict.image).to(met.device)
        status = _judge(at.status, evaluation, _finite(evaluation, move), met, budget, over, move)
        next_noise, state, multiplier = None, at.state, at.multiplier
        running = _running(status, at.noise)
        if move is not None and running.any():
            next_noise, state = select_rows(running, move.noise, at.noise), _select(running, move.state, at.state)
            if min_probability is not None:
                old = torch.ones_like(p) if at.multiplier is None else at.multiplier
                new_multiplier = adapt_multiplier(old, p, min_probability)
                multiplier = new_multiplier if at.multiplier is None else select_rows(running, new_multiplier, old)
        seconds = clock() - began
        own = max(seconds + began - now - (_calibration(objective) - before_step), 0.0)  # fresh samples are made once
        step = Step(
            index=at.index,
            noise=at.noise,
            evaluation=evaluation,
            probability=p,
            info={} if move is None else move.info,
            next_noise=next_noise,
            state=state,
            status=status,
            best=best,
            spent=meter.nfe,
            before=at.nfe,
            seconds=seconds,
            pace=at.pace if over else update_pace(at.pace, own, meter.nfe.cost, warms_up=warms_up),
            multiplier=multiplier,
            verdict=verdict,
            peak=peak,
            untested=at.untested or (objective.image_test and objective.image_test.trouble),
        )
        warms_up = False
        yield step
        if next_noise is None:
            return
        at = step.checkpoint


def _compute(
    over: Status | None, optimizer: Optimizer, objective: Objective, at: Checkpoint, seeds: Seeds
) -> tuple[Evaluation, Move | None, Verdict | None]:
    """One step of the optimizer; or, once the budget is spent, the evaluation that closes the run. With what the tests
    say of it, where it may be the best."""
    if over is None:
        move = optimizer.step(objective, at.noise, at.state, seeds)
        evaluation, verdict = move.evaluation, move.verdict
    else:
        with torch.no_grad():
            move, verdict, evaluation = None, None, objective(at.noise)
    if objective.plausible is None:
        return evaluation, move, verdict
    if at.best is None:  # the start is a sample of the model's own
        return evaluation, move, verdict or objective.test(at.noise)
    rows = _running(at.status, evaluation.value) & evaluation.value.isfinite()
    known = objective.plausible.passes(at.best.strict, at.best.image).to(rows.device)
    better = rows & ((evaluation.value > at.best.value) | ~known)
    if verdict is None:
        again = (at.best.index == at.index).to(rows.device)  # the step that ended a run, made once more
        verdict = objective.test(at.noise, evaluation.state, better | (rows & again), known=at.state.get(KNOWN))
    elif (missed := better.cpu() & (verdict.image == UNTESTED)).any():  # an optimizer that compares with something else
        more = objective.test(at.noise, evaluation.state, missed)
        verdict = Verdict(verdict.strict, torch.where(missed, more.image, verdict.image)) if more else verdict
    return evaluation, move, verdict


def _calibration(objective: Objective) -> float:
    """Seconds that fresh samples to compare images with took so far."""
    return 0.0 if objective.image_test is None else objective.image_test.seconds


def _begin(noise: Tensor) -> Checkpoint:
    return Checkpoint(0, noise.detach(), {}, (Status.RUNNING,) * noise.shape[0], None, NFE(), 0.0, (0.0, 0))


def _worst(first: Best, objective: Objective) -> Best:
    """A best that anything finite improves on."""
    if not first.value.isfinite().any():
        raise RewardError(
            f"reward '{objective.reward.name}' must be a finite number per row, got {first.reward[0].item()} for every "
            "row at the start; check the reward, and the model's precision if its sample is not finite"
        )
    worst = torch.full_like(first.value, -torch.inf)
    return dataclasses.replace(first, reward=worst, value=worst, index=torch.zeros_like(first.index))


def _scores(evaluation: Evaluation) -> tuple[Tensor, Tensor, Tensor]:
    return evaluation.sample, evaluation.reward, evaluation.value


def _running(status: Sequence[Status], like: Tensor) -> Tensor:
    return torch.tensor([one is Status.RUNNING for one in status], device=like.device)


def _finite(evaluation: Evaluation, move: Move | None) -> list[bool]:
    """Whether each row's value, next noise and direction are finite."""
    finite = evaluation.value.isfinite()
    if move is not None:
        finite = finite & move.noise.isfinite().flatten(1).all(1).to(finite.device)
        if (grad_norm := move.info.get("grad_norm")) is not None:
            finite = finite & grad_norm.isfinite().to(finite.device)
    return finite.tolist()


def _select(rows: Tensor, new: State, old: State) -> State:
    """The new state in some rows, the old one elsewhere."""
    return {name: select_rows(rows, part, old[name]) if name in old else part for name, part in new.items()}


def _judge(
    status: Sequence[Status],
    evaluation: Evaluation,
    finite: Sequence[bool],
    met: Tensor,
    budget: Budget,
    over: Status | None,
    move: Move | None,
) -> tuple[Status, ...]:
    """The status of each row after an evaluation; rows that stopped before keep theirs."""
    settled = met & False if move is None or move.settled is None else move.settled
    if move is not None and move.restarts is not None and budget.steps is not None:
        settled = settled.cpu() | move.restarts.cpu()
    reached = torch.zeros_like(met)
    if budget.reward is not None:
        reached = evaluation.value.isfinite() & met & (evaluation.reward >= budget.reward)
    return tuple(
        old if old is not Status.RUNNING
        else Status.REWARD if done
        else Status.NONFINITE if not fine
        else over or (Status.SETTLED if still else Status.RUNNING)
        for old, fine, done, still in zip(status, finite, reached.tolist(), settled.tolist(), strict=True)
    )  # fmt: skip
