"""A problem: everything the loop needs, made from a pipeline (or a name), a prompt, a reward and options.

:func:`prepare` turns names into the objects of the core; `prepare_spec` does so from what a run directory holds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, shorten
from noiseward.loop.about import About
from noiseward.loop.budget import Budget, Status
from noiseward.loop.loop import iterate
from noiseward.loop.objective import Objective
from noiseward.loop.optimizer import Optimizer
from noiseward.loop.panel import Panel, PanelState
from noiseward.loop.progress import Display
from noiseward.loop.start import read_start
from noiseward.loop.step import Checkpoint, Step
from noiseward.loop.stop import EarlyStop
from noiseward.methods import Method, Recipe, choose_method
from noiseward.noise.layout import Seeds
from noiseward.optimizers.coarse_to_fine import CoarseStage, Through, coarse_to_fine
from noiseward.options.parts import split_parts
from noiseward.options.run import RunSpec, Settings
from noiseward.options.task import IMAGES
from noiseward.pipelines.cards import card_of
from noiseward.pipelines.coarsen import coarsen
from noiseward.pipelines.open import open_sampler
from noiseward.rewards.catalog import is_available
from noiseward.rewards.chat.spending import limit_cost
from noiseward.rewards.convert import convert_reward, convert_watched, is_labeled
from noiseward.rewards.parse import parse_requirements
from noiseward.rewards.reward import Reward, find_leaves
from noiseward.samplers.entries import number_prompts, plain_prompts
from noiseward.samplers.memory import check_room
from noiseward.samplers.reference_store import ReferenceStore
from noiseward.samplers.sampler import Sampler

__all__ = [
    "Loaded",
    "Methods",
    "Problem",
    "Rewards",
    "Watch",
    "default_watch",
    "prepare",
    "prepare_spec",
    "show_object",
]

T = TypeVar("T")
Scored = str | Reward | Callable[..., Any]  # a module is a function; so is a pipeline, which needs a label next to it
Watch = Scored | Sequence[Any] | None
Rewards = Scored | Sequence[Any] | Mapping[Any, float]
Methods = str | Recipe | Method | Optimizer | None


class Loaded:
    """The model and the rewards of one problem, for the next, which often asks for the same ones.

    Of each kind only the last is kept, so that two models are never held at once.

    Example:
        >>> loaded = Loaded()
        >>> loaded.get("reward", "brightness", object) is loaded.get("reward", "brightness", object)
        True
    """

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, Any]] = {}

    def get(self, kind: str, asked: Any, load: Callable[[], T]) -> T:
        """What was loaded before, if the same is asked for (by its `repr`); else what `load` gives."""
        known = repr(asked)
        if kind not in self._last or self._last[kind][0] != known:
            self._last.pop(kind, None)  # let go of the last one before the next is loaded
            self._last[kind] = known, load()
        return self._last[kind][1]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Everything `iterate` needs: what to optimize, from where, how, and for how long.

    `method` is its text with all arguments, where it has one.
    """

    objective: Objective
    noise: Tensor
    optimizer: Optimizer
    budget: Budget
    seeds: Seeds
    panel: Panel
    method: str | None = None
    first: CoarseStage | None = None
    stop: EarlyStop = EarlyStop(())
    about: About = About()

    @property
    def does(self) -> str | None:
        """What its method does, in one line, where that depends on model and reward."""
        what, name = self.optimizer.describe(self.objective), (self.method or "").partition(":")[0]
        return what and f"{name}: {what}"

    @property
    def note(self) -> str | None:
        """What to say before it begins, in one line."""
        notes = [self.does] if self.does else []
        if self.first is not None:
            many, few = (len(one.objective.sampler.layout) for one in (self, self.first))
            notes.append(f"few steps first: {self.first.share:.0%} of the budget on {few} draws, then {many}")
        if size := _follow_image(self.objective.sampler, self.about.call):
            notes.append(f"images of {size}, which follow from the one given; set height and width for others")
        if self.panel.names and self.panel.names == self.panel.silent:
            notes.append(f"only statistics of pixels are watched ({', '.join(self.panel.names)}), which never warn")
        return "; ".join(notes) or None

    def iterate(
        self,
        start: Checkpoint | None = None,
        seen: PanelState | None = None,
        *,
        history: Sequence[Mapping[str, Any]] = (),
        coarse: Checkpoint | None = None,
        through: Through = iter,
    ) -> Iterator[Step]:
        """Every step of the run, or those from a place on, watched by the panel, which saw the ones before.

        The records before a place are its `history`.

        With few steps first, what they do is no step of the run: until it is done, the run stands at its start. Their
        optimization continues from `coarse`, and their steps are passed `through` a function.
        """
        begin = self.noise if start is None else start
        ended: dict[int, Status] = {}
        how: dict[str, Any] = {"optimizer": self.optimizer, "seeds": self.seeds, "ended": ended}
        if self.first is None or (start is not None and start.index > 0):
            steps = iterate(self.objective, begin, budget=self.budget, **how)
            return self._watched(steps, start, seen, history, ended)
        few, pair = self.first.objective, self.first.nested
        how |= {"first": self.first.part(self.budget), "budget": self.budget, "at": coarse, "through": through}
        steps = coarse_to_fine(few, self.objective, self.noise, nested=pair, **how)
        return self._watched(steps, start, seen, history, ended)

    def _watched(
        self,
        steps: Iterator[Step],
        start: Checkpoint | None,
        seen: PanelState | None,
        history: Sequence[Mapping[str, Any]],
        ended: dict[int, Status],
    ) -> Iterator[Step]:
        watched = self.panel.watch(_sized(steps, self.objective.sampler), seen)
        return self.stop.end(watched, ended, start=start, history=history) if self.stop.names else watched

    def shown(self, bars: Display) -> Iterator[Step]:
        """Every step of the run, shown on its way."""
        return bars.track(self.iterate(through=self.showing(bars)), self.budget)

    def showing(self, bars: Display | None) -> Through:
        """Shows steps on few draws, where there are bars to show them."""
        if self.first is None or bars is None:
            return iter
        return functools.partial(bars.track, budget=self.first.part(self.budget), name="few steps")


def _follow_image(sampler: Sampler, given: Mapping[str, Any]) -> str | None:
    """The size of images that follows from one that a sampler is given; None where the user set it."""
    if given.get("height") is not None and given.get("width") is not None:
        return None
    images = (sampler.arguments.get(name) for name in IMAGES[:3])
    first = next((one[0] if isinstance(one, list | tuple) and one else one for one in images if one is not None), None)
    size = getattr(first, "size", None)  # of a Pillow image; other kinds are called as they are
    return f"{size[0]} x {size[1]} pixels" if isinstance(size, tuple) else None


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
def prepare(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    settings: Settings,
    *,
    method: Methods = None,
    watch: Watch = None,
    loaded: Loaded | None = None,
    earlier: bool = False,
) -> Problem:
    """What `align` runs, not yet run; `loaded` has models and rewards of the problem before, and `earlier` asks for the
    default method of earlier formats. The rest is as there."""
    batch, seed, memory, call = settings.batch, settings.seed, settings.memory, settings.arguments
    if not (prompt is None or isinstance(prompt, str) or _are_texts(prompt)):
        raise ArgumentError(f"prompt must be text, a list of texts, or None, got {shorten(repr(prompt), 60)}")
    count = batch * (1 if prompt is None or isinstance(prompt, str) else len(prompt))
    check_room(count, batch)
    loaded = loaded or Loaded()
    score = loaded.get("reward", reward, lambda: convert_reward(reward))
    if required := settings.require:
        score = loaded.get("require", (reward, required), functools.partial(parse_requirements, score, required))
    begin = settings.start
    moves = choose_method(method, score, earlier=earlier, started=begin is not None)
    held = loaded.get("watch", (watch, reward, required, model), lambda: _held_out(watch, score, model))
    if settings.max_cost is not None:
        limit_cost((score, *held), settings.max_cost)
    opening = {"memory": memory, "decoder": settings.decoder, "call": call}
    opening |= {"loading": settings.loading, "conversion": settings.conversion}
    asked = (model, opening)
    sampler = loaded.get("sampler", asked, lambda: open_sampler(model, **opening))
    each = [""] if prompt is None else [prompt] if isinstance(prompt, str) else list(prompt)
    if not each:
        raise ArgumentError("expected at least one prompt, got none; give None for a model without prompts")
    if card := card_of(model):
        for text in dict.fromkeys(each):
            card.check_prompt(text)
    rows: list[str] | None = None if prompt is None else [text for text in each for _ in range(batch)]
    if sampler.by_row:
        rows = list(number_prompts(rows, len(each) * batch, batch=batch))
    seeds = [seed + b for _ in each for b in range(batch)]
    tests, store = moves.plausible, ReferenceStore.default()
    image_test = tests and loaded.get("image test", (asked, tests), lambda: tests.image_test(sampler, store=store))
    objective = Objective(sampler, score, rows, moves.regularizer, plausible=tests, image_test=image_test)
    moves.optimizer.check(objective)
    panel = Panel(held, prompt=plain_prompts(rows), every=settings.watch_every)
    stop = EarlyStop(settings.stop_when)
    if "hacked" in stop.names and not [name for name in panel.names if name not in panel.silent]:
        raise ArgumentError("stop_when 'hacked' needs a held-out reward that can tell; give one to watch, as clip")
    check_room(count, batch, sampler.noise_shape)
    start = sampler.init(len(seeds), seed=seeds) if begin is None else read_start(begin, sampler.layout, len(seeds))
    sampler.settle(len(seeds), rows[0] if rows else None)
    first = None
    if moves.coarse is not None:
        few, nested = coarsen(sampler, moves.coarse)
        first = CoarseStage(Objective(few, score, rows, moves.regularizer), nested)
    budget = Budget(**settings.limits)
    text = moves.text if moves.text or method is None else show_object(method)
    name = str(model) if isinstance(model, str | Path) else type(model).__name__
    given = {**(card.call if card else {}), **call}
    prompts = tuple(plain_prompts(rows) or ()) if rows else ()
    about = About(prompts, tuple(seeds), score.name, text or "", name, given)
    return Problem(objective, start, moves.optimizer, budget, Seeds(tuple(seeds)), panel, text, first, stop, about)


def prepare_spec(spec: RunSpec, loaded: Loaded | None = None) -> Problem:
    """What a spec runs, not yet run: its model and rewards loaded, but for those that are `loaded` already."""
    texts = [spec.model, *spec.reward, *(spec.watch or ()), spec.method or ""]
    if made := [text for text in texts if text.startswith("<")]:
        raise ArgumentError(
            f"this run was begun in Python with {', '.join(made)}, which no file gives back; continue it by the same "
            "call, noiseward.align(..., out=...)"
        )
    prompt, reward = list(spec.prompt) or None, list(spec.reward)
    how = {"method": spec.method, "watch": spec.watch, "loaded": loaded}
    return prepare(spec.model, prompt, reward, spec, **how, earlier=spec.origin is not None)


def show_object(value: Any) -> str:
    """An object that cannot be written down, for a reader.

    Example:
        >>> show_object(len), show_object(3)
        ('<len>', '<int>')
    """
    return f"<{getattr(value, '__name__', type(value).__name__)}>"


def _are_texts(value: Any) -> TypeGuard[Collection[str]]:
    return isinstance(value, Collection) and all(isinstance(one, str) for one in value)


def default_watch(model: Any, optimized: Sequence[str]) -> tuple[str, ...]:
    """The held-out rewards to track where none are asked for, by name: the model card's that can be used."""
    card = card_of(model)
    names = [name for name in (card.watch if card else ()) if name not in optimized and is_available(name)]
    return tuple(names) if len(names) > 1 else ()  # one number about pixels is no judge


def _held_out(watch: Watch, reward: Reward, model: Any) -> list[Reward]:
    """The held-out rewards to track."""
    optimized = [leaf.name for leaf in find_leaves(reward)]
    watch = default_watch(model, optimized) if watch is None else watch
    held = []
    several: Any = split_parts(watch) if isinstance(watch, str) else watch
    for one in several if isinstance(several, Sequence) and not is_labeled(several) else [several]:
        if isinstance(one, str) and one == "none":
            continue
        each, weight = convert_watched(one)
        if weight != 1:
            raise ArgumentError(f"expected a watched reward without a weight, got '{one}'; leave the weight out")
        if each.name in optimized:
            raise ArgumentError(
                f"expected a held-out reward to watch, got '{each.name}', which is optimized; watch another one"
            )
        held.append(each)
    return held
