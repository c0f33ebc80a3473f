"""What a method is: a name, parameters, what it needs, and how what runs is built from it."""

from __future__ import annotations

import abc
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from noiseward.options.option import Options, option
from noiseward.options.parts import PartText, build_part, join_part

if TYPE_CHECKING:
    from noiseward.loop.optimizer import Optimizer
    from noiseward.loop.plausible import Plausible
    from noiseward.noise.regularize import Regularizer
    from noiseward.rewards.reward import Reward

__all__ = [
    "CHUNK",
    "KEEP_SEED",
    "ESTIMATORS",
    "GUARDS",
    "METHODS",
    "PARTS",
    "PROJECTIONS",
    "Method",
    "Recipe",
    "load",
    "load_parts",
]


@dataclasses.dataclass(frozen=True)
class Method:
    """How the noise is changed.

    Arguments:
        optimizer: what changes it.
        regularizer: what draws it back into distribution; None for nothing.
        plausible: what a result must pass to be the best; None for nothing.
        coarse: how many sampler steps to begin with (`optimizers/coarse_to_fine.py`); None for all.
        text: its name with all arguments, where it has one.

    Example:
        >>> from noiseward import GradientAscent, align
        >>> how = {"method": Method(GradientAscent(lr=0.01)), "num_inference_steps": 4, "progress": False}
        >>> solution = align("stickers", "a duck", "brightness", steps=1, **how)
        >>> len(solution.history)
        2
    """

    optimizer: Optimizer
    regularizer: Regularizer | None = None
    plausible: Plausible | None = None
    coarse: int | None = None
    text: str | None = None


METHODS: dict[str, type[Recipe]] = {}
"""Every method by name."""


class Recipe(Options):
    """A method with its parameters; `optimizer` builds what changes the noise.

    Attributes:
        name: what it is called.
        needs: what it needs: `gradient` (of reward and sampler), `step noise`, or `ddim`.
        paper: where it comes from.
        default_guard: what keeps its results in distribution unless another guard is named.
        presets: arguments by a name that may stand in the first place, as in dno:paper.

    Example:
        >>> from noiseward.methods import read_method
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
    default_guard: ClassVar[str] = "plausible"
    presets: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    guard: PartText = option(
        None,
        help="What keeps results in distribution: plausible:strict=0.001,image=0.1 (what the best must pass), "
        "concentration:min_probability=0.1 (a P(z) to keep), concentration:1.0 (a weight), shell:0.01, none.",
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

    @property
    def is_tested(self) -> bool:
        """Whether its results must pass tests (`loop/plausible.py`)."""
        return (self.default_guard if self.guard is None else self.guard).partition(":")[0] == "plausible"

    def build(self, reward: Reward) -> Method:
        """What runs, for a reward."""
        from noiseward.loop.plausible import Plausible

        guard: Any = build_part(self.default_guard if self.guard is None else self.guard, load_parts(GUARDS), "guard")
        regularizer, plausible = (None, guard) if isinstance(guard, Plausible) else (guard, None)
        return Method(self.optimizer(reward), regularizer, plausible, self.coarse, self.text)

    @abc.abstractmethod
    def optimizer(self, reward: Reward) -> Optimizer:
        """What changes the noise, for a reward."""


PARTS = ("guard", "estimator", "project")  # arguments that have arguments
ESTIMATORS = {
    "backprop": "optimizers.gradient:Backprop",
    "annealed": "optimizers.gradient:Annealed",
    "hybrid2": "optimizers.hybrid:Hybrid2",
    "hybrid1": "optimizers.hybrid:Hybrid1",
    "zeroth-order": "optimizers.zeroth_order:ZerothOrder",
}
GUARDS = {
    "plausible": "loop.plausible:Plausible",
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
KEEP_SEED = option(False, help="Stay with the seed's image: draw nothing fresh before the first denoising step.")


def load_parts(parts: dict[str, str]) -> dict[str, Callable[..., Any]]:
    """The classes of parts, by name."""
    return {name: load(home) for name, home in parts.items()}


def load(home: str) -> Callable[..., Any]:
    """What `module:name` of this package names."""
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(f"noiseward.{module}"), name)
