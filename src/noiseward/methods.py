"""Methods: how the noise moves, by name. One registry for `align`, `batch`, `compare`, the docs and the studio.

    NAME                             a method with its defaults
    NAME:ARG=VALUE,ARG=VALUE         with arguments; the first may stand without its name, as in best-of-n:8

`guard`, `estimator` and `project` are parts with arguments of their own, in the same form. What follows a part and is
not an argument of the method belongs to the part:

    dno:lr=0.02,estimator=hybrid2:samples=16,scale=0.05,guard=concentration:min_probability=0.1
    dno:coarse=5,best_of=16
    dno:project=norm+spectral

A method is a :class:`Recipe`: options that build a :class:`Method`, which is what runs. To add one, subclass it.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from noiseward.errors import ArgumentError, choices, shorten
from noiseward.options.option import Options, option
from noiseward.options.parts import PartText, build_part, join_part, split_arguments
from noiseward.options.replaced import REPLACED_METHODS

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.noise.regularize import Regularizer
    from noiseward.rewards.reward import Reward

__all__ = ["DEFAULT_METHODS", "METHODS", "Method", "Recipe", "choose_method", "default_method", "read_method"]


@dataclasses.dataclass(frozen=True)
class Method:
    """How the noise moves.

    Arguments:
        optimizer: what moves it.
        regularizer: what keeps it in distribution; None for nothing.
        coarse: how many sampler steps to begin with (`optimizers/coarse_to_fine.py`); None for all.
        text: its name with all arguments, where it has one.
    """

    optimizer: Optimizer
    regularizer: Regularizer | None = None
    coarse: int | None = None
    text: str | None = None


METHODS: dict[str, type[Recipe]] = {}
"""Every method by name."""


class Recipe(Options):
    """A method with its parameters; `optimizer` builds what moves the noise.

    Attributes:
        name: what it is called.
        needs: what it needs: `gradient` (of reward and sampler), `step noise`, or `ddim`.
        paper: where it comes from.

    Example:
        >>> class Wander(Recipe, name="wander"):
        ...     "Random neighbors, close by."
        ...     cosine: float = option(0.99, ge=0, lt=1, help="Cosine of the angle of a step.")
        ...
        ...     def optimizer(self, reward):
        ...         from noiseward import ZeroOrderSearch
        ...
        ...         return ZeroOrderSearch(4, self.cosine)
        >>> read_method("wander:0.9").text
        'wander:cosine=0.9'
        >>> _ = METHODS.pop("wander")
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""

    guard: PartText = option(
        None,
        help="What keeps the noise in distribution: concentration:min_probability=0.1 (a P(z) to keep), "
        "concentration:1.0 (a weight), shell:0.01, none.",
    )
    coarse: int | None = option(
        None,
        ge=1,
        help="Spend most of the budget on a sampler of this many steps, then carry the noise over (DDIM, eta 1).",
    )

    @classmethod
    def own(cls) -> list[str]:
        """The names of its own parameters, which not every method has."""
        return [name for name in cls.model_fields if name not in Recipe.model_fields]

    def __init_subclass__(cls, *, name: str = "", needs: tuple[str, ...] = (), paper: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.name, cls.needs, cls.paper = name, needs, paper
        if name:
            METHODS[name] = cls

    def tries_candidates(self, differentiable: bool) -> bool:
        """Whether it compares candidates, which other processes can sample, for a reward with or without a gradient."""
        return True

    def resolve(self, differentiable: bool) -> Recipe:
        """The same with what it chooses for a reward with or without a gradient written out."""
        return self

    @property
    def text(self) -> str:
        """Its name with the arguments that have a value."""
        names = [*self.own(), *Recipe.model_fields]
        return join_part(self.name, {name: value for name in names if (value := getattr(self, name)) is not None})

    def build(self, reward: Reward) -> Method:
        """What runs, for a reward."""
        from noiseward.noise.regularize import NoRegularizer

        regularizer = NoRegularizer() if self.guard is None else build_part(self.guard, _load(GUARDS), "guard")
        return Method(self.optimizer(reward), regularizer, self.coarse, self.text)

    @abc.abstractmethod
    def optimizer(self, reward: Reward) -> Optimizer:
        """What moves the noise, for a reward."""


PARTS = ("guard", "estimator", "project")  # arguments that have arguments
ESTIMATORS = {
    "backprop": "optimizers.gradient:Backprop",
    "annealed": "optimizers.gradient:Annealed",
    "hybrid2": "optimizers.hybrid:Hybrid2",
    "hybrid1": "optimizers.hybrid:Hybrid1",
    "zeroth-order": "optimizers.zeroth_order:ZerothOrder",
}
GUARDS = {
    "concentration": "noise.regularize:Concentration",
    "shell": "noise.regularize:Shell",
    "none": "noise.regularize:NoRegularizer",
}
PROJECTIONS = {
    "norm": "noise.project:NormProjection",
    "spectral": "noise.project:SpectralProjection",
    "start": "noise.project:StartOnly",
}


CHUNK = option(16, ge=1, help="Rows sampled at a time.")


class DNORecipe(Recipe, name="dno", needs=("gradient",), paper="https://arxiv.org/abs/2405.18881"):
    """Direct Noise Optimization: Adam on the noise of every step."""

    lr: float = option(0.01, gt=0, help="Learning rate of Adam.")
    estimator: PartText = option(
        None,
        help="Where directions come from: backprop, annealed, hybrid2, hybrid1, zeroth-order. Default: backprop, or "
        "hybrid2 for a reward without a gradient.",
    )
    project: str | None = option(
        None,
        help="Keep each draw on its sphere (norm) or white (spectral), or move the first draw alone (start); with + "
        "between several.",
    )
    best_of: int | None = option(
        None, ge=1, help="Try this many fresh noises in the first step and continue from the best."
    )

    def tries_candidates(self, differentiable: bool) -> bool:
        return str(self.resolve(differentiable).estimator).partition(":")[0] != "backprop"

    def resolve(self, differentiable: bool) -> DNORecipe:
        default = "backprop" if differentiable else "hybrid2"
        return self if self.estimator is not None else self.replace(estimator=default)

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.ascend import GradientAscent
        from noiseward.optimizers.relay import Relay
        from noiseward.optimizers.search import BestOfN

        estimator = self.resolve(reward.differentiable).estimator or ""
        source = build_part(estimator, _load(ESTIMATORS), "estimator")
        names = [] if self.project is None else self.project.split("+")
        project = [build_part(name, _load(PROJECTIONS), "projection") for name in names]
        ascent = GradientAscent(source, lr=self.lr, project=project)
        return ascent if self.best_of is None else Relay(BestOfN(self.best_of), ascent)


class ReNORecipe(Recipe, name="reno", needs=("gradient",), paper="https://arxiv.org/abs/2406.04312"):
    """ReNO: Nesterov's momentum on the first draw alone, its gradient clipped, its norm held by a penalty.

    Made for one-step models, where the first draw is all there is, and 50 steps. Each step is at most `lr * max_norm`
    long before momentum. Over many denoising steps it leaves most of the noise unused, and follows the gradient of the
    first draw, which is the weakest.
    """

    lr: float = option(5.0, gt=0, help="Learning rate; 5 as published, 10 for one of its models.")
    momentum: float = option(0.9, gt=0, lt=1, help="Nesterov's momentum.")
    max_norm: float = option(0.1, gt=0, help="Each row's gradient, penalty included, is scaled down to this norm.")
    weight: float = option(0.01, ge=0, help="Weight of the penalty on the norm, where there is no other guard.")

    def tries_candidates(self, differentiable: bool) -> bool:
        return False

    def build(self, reward: Reward) -> Method:
        from noiseward.noise.regularize import Shell

        method = super().build(reward)
        return method if self.guard else dataclasses.replace(method, regularizer=Shell(self.weight))

    def optimizer(self, reward: Reward) -> Optimizer:
        import torch

        from noiseward.noise.project import StartOnly
        from noiseward.optimizers.ascend import GradientAscent

        update = functools.partial(torch.optim.SGD, momentum=self.momentum, nesterov=True)
        return GradientAscent(update=update, lr=self.lr, max_norm=self.max_norm, project=[StartOnly()])


class SearchRecipe(Recipe):
    """A method that compares candidates and needs no gradient.

    Attributes:
        home: the class that does it, which takes the recipe's own options.
    """

    home: ClassVar[str]
    samples: int = option(16, ge=1, help="Candidates per step.")

    def optimizer(self, reward: Reward) -> Optimizer:
        return _load_one(self.home)(**{name: getattr(self, name) for name in self.own()})


class BestOfNRecipe(SearchRecipe, name="best-of-n"):
    """Fresh noise in every step: the baseline every method should beat."""

    home = "optimizers.search:BestOfN"
    chunk: int = CHUNK


class ZeroOrderRecipe(SearchRecipe, name="zero-order", paper="https://arxiv.org/abs/2501.09732"):
    """The best of some neighbors on the sphere, step by step."""

    home = "optimizers.search:ZeroOrderSearch"
    cosine: float = option(0.95, ge=0, lt=1, help="Cosine of the angle between a noise and its neighbors.")
    chunk: int = CHUNK


class TrustRegionRecipe(SearchRecipe, name="trust-region", paper="https://arxiv.org/abs/2603.14504"):
    """Neighbors in several regions, which grow where they succeed and shrink where they fail."""

    home = "optimizers.search:TrustRegion"
    regions: int = option(4, ge=1, help="Regions per row.")
    sine: float = option(0.4, gt=0, le=1, help="Sine of the angle of a region at the start.")
    chunk: int = CHUNK


class EvolutionRecipe(SearchRecipe, name="evolution", paper="https://arxiv.org/abs/2506.00299"):
    """Rotations of the noise's channels, the better ones combined."""

    home = "optimizers.evolve:ChannelEvolution"
    scale: float = option(0.2, gt=0, help="Size of a rotation.")
    chunk: int = CHUNK


class FKRecipe(Recipe, name="fk", needs=("step noise",), paper="https://arxiv.org/abs/2501.06848"):
    """Feynman-Kac steering: particles that are resampled by reward on the way; the best of several runs."""

    particles: int = option(4, ge=2, help="Particles per run.")
    scale: float = option(10.0, gt=0, help="How strongly the reward decides who is resampled.")
    potential: Literal["difference", "max"] = option("difference", help="What a particle's weight follows.")
    every: float = option(0.2, gt=0, le=0.5, help="Share of the run between two resamplings.")
    adaptive: bool = option(True, help="Resample only where few particles hold most of the weight.")
    chunk: int = CHUNK

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import FKSteering, Guided

        guide = FKSteering(
            self.particles, scale=self.scale, potential=self.potential, every=self.every, adaptive=self.adaptive
        )
        return Guided(guide, samples=self.particles, chunk=self.chunk)


class DPSRecipe(Recipe, name="dps", needs=("gradient", "step noise"), paper="https://arxiv.org/abs/2209.14687"):
    """Diffusion posterior sampling: each denoising step follows the reward's gradient; the best of several runs."""

    scale: float = option(1.0, gt=0, help="Length of a guiding step.")
    normalize: bool = option(True, help="Scale each row's gradient to norm 1.")
    samples: int = option(4, ge=1, help="Runs per step.")
    chunk: int = CHUNK

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import DPS, Guided

        return Guided(DPS(self.scale, normalize=self.normalize), samples=self.samples, chunk=self.chunk)


class LGDRecipe(
    DPSRecipe, name="lgd", needs=("gradient", "step noise"), paper="https://proceedings.mlr.press/v202/song23k.html"
):
    """Loss-guided diffusion: as dps, with the reward averaged over several guesses; the best of several runs."""

    votes: int = option(10, ge=1, help="Guesses that are averaged.")
    length: float = option(1.0, gt=0, help="Length of a normalized correction.")

    def optimizer(self, reward: Reward) -> Optimizer:
        from noiseward.optimizers.guidance import LGD, Guided

        guide = LGD(self.votes, scale=self.scale, normalize=self.normalize, length=self.length)
        return Guided(guide, samples=self.samples, chunk=self.chunk)


def read_method(text: str) -> Recipe:
    """The method that a text names.

    Raises:
        ArgumentError: no such method, argument or value.

    Example:
        >>> read_method("dno:0.05,guard=concentration:target=0.1,block=8").text  # `target` is what it was called
        'dno:lr=0.05,guard=concentration:min_probability=0.1,block=8'
    """
    name = text.partition(":")[0].strip()
    if name not in METHODS:
        hint = f"use '{REPLACED_METHODS[name]}'" if name in REPLACED_METHODS else choices(name, METHODS)
        raise ArgumentError(f"unknown method '{name}'; {hint}")
    kind = METHODS[name]
    given: dict[str, str] = {}
    part = None
    for key, value in split_arguments(text, first=next(iter(kind.own()), None), what="method"):
        if key in kind.model_fields:
            if key in given:
                raise ArgumentError(f"method '{text}' has '{key}' twice; give it once")
            given[key], part = value, key if key in PARTS else None
        elif part is not None:
            given[part] += f"{',' if ':' in given[part] else ':'}{key}={value}"
        else:
            raise ArgumentError(f"method '{name}' has no argument '{key}'; {choices(key, kind.model_fields)}")
    unset = {key for key, field in kind.model_fields.items() if field.default is None and key != "guard"}
    values = {key: None if value == "none" and key in unset else value for key, value in given.items()}
    return kind.read(values, spell=lambda key: f"method '{name}': {key}")


def default_method(differentiable: bool) -> str:
    """The method for a reward with or without a gradient, where none is asked for."""
    return "dno" if differentiable else "trust-region"


def choose_method(method: str | Recipe | Method | Optimizer | None, reward: Reward) -> Method:
    """Choose what runs: a method by its text, a recipe, a method, an optimizer alone, or the default for a reward.

    The default is DNO for a reward with a gradient, and for one without the search that gained the most at equal cost
    (`docs/black-box.md`).
    """
    from noiseward.loop.optimizer import Optimizer

    if method is None or isinstance(method, str):
        method = read_method(default_method(reward.differentiable) if method is None else method)
    if isinstance(method, Recipe):
        return method.build(reward)
    if isinstance(method, Method):
        return method
    if isinstance(method, Optimizer):
        return Method(method)
    raise ArgumentError(f"method must be a name, a Recipe, a Method or an Optimizer, got {shorten(repr(method), 60)}")


def _load(parts: dict[str, str]) -> dict[str, Callable[..., Any]]:
    return {name: _load_one(home) for name, home in parts.items()}


def _load_one(home: str) -> Callable[..., Any]:
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(f"noiseward.{module}"), name)


DEFAULT_METHODS = (
    "best-of-n",
    "zero-order",
    "trust-region",
    "evolution",
    "fk",
    "dps",
    "lgd",
    "reno",
    "dno",
    "dno:best_of=16",
    "dno:project=start",
    "dno:guard=concentration:min_probability=0.1",
    "dno:coarse=10",
    "dno:estimator=hybrid2",
)
"""What `compare` compares unless asked otherwise."""
