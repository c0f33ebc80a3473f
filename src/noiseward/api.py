r"""The front door: a pipeline (or a name), a prompt and a reward in, the aligned samples out.

:func:`align` is one call; :func:`prepare` is its first half, which turns names into the objects of the core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor

from noiseward.choose import DEFAULT_LR, mover_for
from noiseward.errors import ArgumentError, shorten
from noiseward.loop.budget import Budget
from noiseward.loop.loop import Optimizer, Place, Step, iterate
from noiseward.loop.objective import Objective
from noiseward.loop.panel import Panel, Seen
from noiseward.loop.progress import Bars
from noiseward.loop.solution import Solution, collect
from noiseward.named import parse
from noiseward.noise.layout import Seeds
from noiseward.noise.project import Projection
from noiseward.noise.regularize import Concentration, NoRegularizer, Regularizer, Shell
from noiseward.optimizers.coarse_to_fine import First, Through, coarse_to_fine
from noiseward.optimizers.gradient import Estimator
from noiseward.parts import Parts
from noiseward.pipelines.cards import card_of
from noiseward.pipelines.coarsen import coarsen
from noiseward.pipelines.open import open_sampler
from noiseward.rewards.catalog import is_available
from noiseward.rewards.parse import parse as parse_rewards
from noiseward.rewards.parse import weighted
from noiseward.rewards.reward import FunctionReward, Reward, WeightedSum
from noiseward.samplers.entries import numbered, spoken
from noiseward.samplers.memory import check_room
from noiseward.samplers.sampler import Sampler

__all__ = [
    "Problem",
    "align",
    "default_budget",
    "prepare",
]

DEFAULT_STEPS = 30
REGULARIZERS = {"concentration": Concentration, "shell": Shell, "none": NoRegularizer}

T = TypeVar("T")
Watch = str | Reward | Sequence[str | Reward] | None
Rewards = str | Reward | Callable[..., Tensor] | Sequence[str] | Mapping[Reward, float]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything `iterate` needs: what to climb, from where, how, and for how long.

    `chosen` is the search, as `optimizer=` takes it, where the reward has no gradient and nothing was asked for.
    """

    objective: Objective
    noise: Tensor
    optimizer: Optimizer
    budget: Budget
    seeds: Seeds
    panel: Panel
    chosen: str | None = None
    first: First | None = None

    @property
    def note(self) -> str | None:
        """What to say before it begins, in one line."""
        said, name = [], self.objective.reward.name
        if self.chosen is not None:
            other = "or choose an estimator or a search"
            said.append(f"reward '{name}' has no gradient: searching with {self.chosen} ({other})")
        if self.first is not None:
            many, few = (len(one.objective.sampler.layout) for one in (self, self.first))
            said.append(f"few steps first: {self.first.share:.0%} of the budget on {few} draws, then {many}")
        if self.panel.names and self.panel.names == self.panel.silent:
            said.append(f"only statistics of pixels look on ({', '.join(self.panel.names)}): they warn of nothing")
        return "; ".join(said) or None

    def iterate(
        self,
        start: Place | None = None,
        seen: Seen | None = None,
        *,
        coarse: Place | None = None,
        through: Through = iter,
    ) -> Iterator[Step]:
        """Every step of the run, or those from a place on, watched by the panel, which saw the ones before.

        With few steps first, what they do is no step of the run: until it is done, the run stands at its start. Their
        climb goes on from `coarse`, and its own steps are passed `through` something.
        """
        begin = self.noise if start is None else start
        how: dict[str, Any] = {"optimizer": self.optimizer, "seeds": self.seeds}
        if self.first is None or (start is not None and start.index > 0):
            steps = iterate(self.objective, begin, budget=self.budget, **how)
            return self.panel.watch(_sized(steps, self.objective.sampler), seen)
        few, pair = self.first.objective, self.first.nested
        how |= {"first": self.first.part(self.budget), "budget": self.budget, "at": coarse, "through": through}
        steps = coarse_to_fine(few, self.objective, self.noise, nested=pair, **how)
        return self.panel.watch(_sized(steps, self.objective.sampler), seen)

    def shown(self, bars: Bars) -> Iterator[Step]:
        """Every step of the run, shown on its way."""
        return bars.watch(self.iterate(through=self.showing(bars)), self.budget)

    def showing(self, bars: Bars | None) -> Through:
        """Shows steps on few draws, where there are bars to show them."""
        if self.first is None or bars is None:
            return iter
        return functools.partial(bars.watch, budget=self.first.part(self.budget), name="few steps")


def _sized(steps: Iterator[Step], sampler: Sampler) -> Iterator[Step]:
    """The same steps, where the size that was asked for is the one of the images.

    Some pipelines take their default size unless they are given both height and width. Others round to a multiple of
    what their model needs.
    """
    given = sampler.arguments
    sides = {name: given[name] for name in ("height", "width") if isinstance(given.get(name), int)}
    for number, step in enumerate(steps):
        sample = step.evaluation.sample
        if number == 0 and len(sides) == 1 and sample.ndim == 4:
            ((name, asked),) = sides.items()
            height, width = sample.shape[2:]
            rounded = {size for unit in (1, 8, 16, 32) for size in (asked // unit * unit, -(-asked // unit) * unit)}
            if (height if name == "height" else width) not in rounded:
                raise ArgumentError(
                    f"expected images with {name} {asked}, got {width} x {height}: this pipeline takes height and "
                    "width together only; give both"
                )
        yield step


@torch.inference_mode(False)
def align(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    nfe: int | None = None,
    target: float | None = None,
    batch: int = 1,
    seed: int = 0,
    lr: float = DEFAULT_LR,
    estimator: Estimator | str | None = None,
    regularizer: Regularizer | str | None = None,
    project: Sequence[Projection | str] = (),
    optimizer: Optimizer | str | None = None,
    best_of: int | None = None,
    watch: Watch = None,
    watch_every: int = 1,
    coarse: int | None = None,
    memory: str | None = None,
    scheduler: str | None = None,
    lora: str | Path | None = None,
    dtype: str | None = None,
    device: str | None = None,
    progress: bool = True,
    **call: Any,
) -> Solution:
    """Raise the reward of the samples of a prompt by moving the sampler's own noise.

    Arguments:
        model: a diffusers pipeline, a `Sampler`, or what `load_pipeline` takes: a short name such as `sdxl`, or
            `stickers` for the built-in model; a pipeline folder, a hub id, a checkpoint in one file.
        prompt: one or several; each is sampled `batch` times. None for a model without prompts.
        reward: a name (`noiseward rewards` lists them), `NAME:WEIGHT`, several of these, `path/to/file.py:function`, a
            `Reward`, a differentiable function of images, or a mapping from rewards to weights.
        steps, seconds, nfe: the budget (see `Budget`); default: 30 moves.
        target: stop moving a row that reached this reward.
        batch: rows per prompt, with seeds `seed`, `seed + 1`, ...
        seed: where optimization starts: the picture the pipeline gives for this seed.
        lr: learning rate of the default optimizer, Adam. 0.01 is the published implementation's. Measured here on the
            built-in model (`experiments/in_distribution.py`, 25 moves), 0.05 gains a fifth more, leaves the noise's
            distribution, and loses 40 % of the nouns; 0.01 loses 5 % (`docs/guards.md`).
        estimator: where the direction comes from, or its name with its arguments: `backprop`, `backprop:steps=5`,
            `backprop:through=linear`, `annealed:15`, `hybrid2:samples=16`, `hybrid1`, `zeroth-order`.
            Default: `backprop`; for a reward without a gradient the search `trust-region`, or `hybrid2` where `lr`,
            `project` or `best_of` ask for an ascent.
        optimizer: what moves the noise, instead of gradient ascent; or the name of a search with its arguments:
            `best-of-n`, `zero-order`, `trust-region`, `evolution`; `dps`, `lgd`, `fk` steer the sampler on its way.
        best_of: try so many fresh noises first, as one move, and climb from the best, the seed's own included.
        regularizer: one, or its name with its arguments: `concentration:1.0`, `concentration:target=0.1`, `shell:0.01`,
            `none`.
        project: constraints on the noise, or their names: `norm`, `spectral`; `start` for the first draw alone.
        watch: rewards that look on and are not climbed (`panel.py`): names as for `reward`, or `Reward`s. Default: for
            the built-in model its judge, contrast and jpeg, otherwise none. `()` for none.
        watch_every: at every so many steps.
        coarse: spend most of the budget on a sampler of so many steps, fewer than `num_inference_steps` and nested in
            them (`nested.py`): DDIM with eta = 1 only.
        memory: `fast`, `balanced`, `low` or `auto`, see `DiffusersSampler`.
        scheduler, lora, dtype, device: how a model given by name is loaded, see `load_pipeline`.
        progress: show a progress bar.
        call: the pipeline's own arguments. Where it takes `eta`, that is 1 by default: every step's noise can move.

    Returns:
        the `Solution`. Row `p * batch + b` is prompt p with seed `seed + b`.

    Example:
        >>> solution = align("stickers", "a duck", "brightness", steps=2, num_inference_steps=4, progress=False)
        >>> bool(solution.gain > 0)
        True
    """
    bars = Bars() if progress else None
    with bars.waiting() if bars else contextlib.nullcontext():
        problem = prepare(
            model,
            prompt,
            reward,
            optimizer=optimizer,
            best_of=best_of,
            estimator=estimator,
            lr=lr,
            project=project,
            budget=default_budget(steps=steps, seconds=seconds, nfe=nfe, reward=target),
            regularizer=regularizer,
            watch=watch,
            watch_every=watch_every,
            batch=batch,
            seed=seed,
            coarse=coarse,
            memory=memory,
            loading={"scheduler": scheduler, "lora": lora, "dtype": dtype, "device": device},
            call=call,
        )
    if bars and problem.note:
        print(problem.note, file=sys.stderr)
    return collect(problem.shown(bars) if bars else problem.iterate(), problem.objective)


def default_budget(**limits: Any) -> Budget:
    """A `Budget`, of 30 moves where no end is given."""
    ends = ("steps", "seconds", "nfe")
    return Budget(
        **{**limits, **({} if any(limits.get(end) is not None for end in ends) else {"steps": DEFAULT_STEPS})}
    )


@torch.inference_mode(False)
def prepare(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    *,
    budget: Budget,
    optimizer: Optimizer | str | None = None,
    best_of: int | None = None,
    estimator: Estimator | str | None = None,
    lr: float = DEFAULT_LR,
    project: Sequence[Projection | str] = (),
    regularizer: Regularizer | str | None = None,
    watch: Watch = None,
    watch_every: int = 1,
    batch: int = 1,
    seed: int = 0,
    coarse: int | None = None,
    memory: str | None = None,
    loading: Mapping[str, Any] = MappingProxyType({}),
    call: Mapping[str, Any] = MappingProxyType({}),
    parts: Parts | None = None,
) -> Problem:
    """What `align` runs, not yet run; but for these, the arguments are explained there.

    Arguments:
        budget: what `align` makes from numbers.
        loading: how a model given by name is loaded: `scheduler`, `lora`, `dtype`, `device`.
        call: the pipeline's own arguments.
        parts: where models and rewards are taken from if they were made before.
    """
    if batch < 1:
        raise ArgumentError(f"batch={batch} given: at least 1 wanted")
    if not -(2**63) <= seed <= 2**63 - batch:
        raise ArgumentError(f"seed must be an integer of 64 bits, got {shorten(str(seed), 40)}; give a smaller one")
    count = batch * (1 if prompt is None or isinstance(prompt, str) else len(prompt))
    check_room(count, batch)
    parts = parts or Parts()
    score = parts.kept("reward", reward, lambda: _reward(reward))
    mover, chosen = mover_for(score, optimizer, estimator, lr=lr, project=project, best_of=best_of)
    held = parts.kept("watch", (watch, reward, model), lambda: _held_out(watch, score, model))
    given = {name: value for name, value in loading.items() if value is not None}
    asked = (model, memory, dict(call), given)
    sampler = parts.kept("sampler", asked, lambda: open_sampler(model, memory=memory, call=call, loading=given))
    each = [""] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    if not each:
        raise ArgumentError("no prompt given: give at least one, or None for a model without prompts")
    if card := card_of(model):
        for text in dict.fromkeys(each):
            card.check_prompt(text)
    rows: list[str] | None = None if prompt is None else [text for text in each for _ in range(batch)]
    if sampler.by_row:
        rows = list(numbered(rows, len(each) * batch, batch=batch))
    seeds = [seed + b for _ in each for b in range(batch)]
    rho = parse(regularizer, REGULARIZERS, "regularizer") if isinstance(regularizer, str) else regularizer
    objective = Objective(sampler, score, rows, rho)
    mover.check(objective)
    panel = Panel(held, prompt=spoken(rows), every=watch_every)
    check_room(count, batch, sampler.noise_shape)
    start = sampler.init(len(seeds), seed=seeds)
    sampler.settle(len(seeds), rows[0] if rows else None)
    first = None
    if coarse is not None:
        few, pair = coarsen(sampler, coarse)
        first = First(Objective(few, score, rows, rho), pair)
    return Problem(objective, start, mover, budget, Seeds(tuple(seeds)), panel, chosen, first)


def _reward(reward: Rewards) -> Reward:
    if isinstance(reward, Reward):
        return reward
    if isinstance(reward, str):
        return parse_rewards([reward])
    if isinstance(reward, Mapping):
        return WeightedSum(reward)
    if callable(reward):
        return FunctionReward(reward)
    return parse_rewards(list(reward))


def _held_out(watch: Watch, reward: Reward, model: Any) -> list[Reward]:
    """The rewards that look on."""
    climbed = [one.name for one in reward.rewards] if isinstance(reward, WeightedSum) else [reward.name]
    if watch is None:
        card = card_of(model)
        names = [name for name in (card.watch if card else ()) if name not in climbed and is_available(name)]
        watch = names if len(names) > 1 else ()  # one number about pixels is no judge
    held = []
    for one in [watch] if isinstance(watch, str | Reward) else watch:
        each, weight = (one, 1.0) if isinstance(one, Reward) else weighted(one)
        if weight != 1:
            raise ArgumentError(f"'{one}' given to watch: what only looks on has no weight")
        if each.name in climbed:
            raise ArgumentError(f"'{each.name}' is climbed already: watch another reward beside it")
        held.append(each)
    return held
