"""Align any diffusion or flow model with any reward while it generates, by moving the sampler's own noise.

A **sampler** turns **noise** into a sample; a **reward** scores it; an **optimizer** moves the noise uphill; a
**regularizer** keeps it looking like noise.

:func:`align` is the front door. The parts it is made of are the other names here, each found in its own module when
it is first asked for: `import noiseward` loads nothing, not even torch.

Three functions, `align`, `differentiable` and `optimize`, share their name with a module. `noiseward.align` and the
others are the functions, always; names inside the modules are imported as usual, `from noiseward.optimize import
iterate`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiseward.align import align
    from noiseward.ascend import GradientAscent
    from noiseward.budget import Budget, Status
    from noiseward.differentiable import differentiable
    from noiseward.errors import (
        ArgumentError,
        GradientError,
        ModelError,
        NoisewardError,
        NoisewardWarning,
        RewardError,
        RunError,
        TapeError,
    )
    from noiseward.estimate import Annealed, Backprop, Estimator
    from noiseward.evolve import ChannelEvolution
    from noiseward.guidance import DPS, LGD, FKSteering, Guided
    from noiseward.methods import Method, reno
    from noiseward.moments import Guide, Moment, Pick, Shift
    from noiseward.nested import Nested, coarse_to_fine
    from noiseward.noise import Draw, Layout, Seeds
    from noiseward.objective import Evaluation, Objective
    from noiseward.optimize import Optimizer, Step, iterate
    from noiseward.panel import Panel
    from noiseward.perturb import Hybrid1, Hybrid2, ZerothOrder
    from noiseward.pipelines import DiffusersSampler
    from noiseward.project import NormProjection, Projection, SpectralProjection, StartOnly
    from noiseward.recompute import NFE
    from noiseward.regularize import Concentration, NoRegularizer, Regularizer, Shell, probability
    from noiseward.relay import Relay
    from noiseward.reward import FunctionReward, Reward, UnitGradient, WeightedSum
    from noiseward.rewards.remote import RemoteReward
    from noiseward.sample import FunctionSampler, Sampler
    from noiseward.search import BestOfN, TrustRegion, ZeroOrderSearch
    from noiseward.shaping import Augmented, Clamped
    from noiseward.solution import Solution, optimize
    from noiseward.strict import strict_probability
    from noiseward.tape import NoiseTape

__version__ = "0.1.0"

__all__ = [
    "Annealed",
    "ArgumentError",
    "Augmented",
    "Backprop",
    "BestOfN",
    "Budget",
    "ChannelEvolution",
    "Clamped",
    "Concentration",
    "DPS",
    "DiffusersSampler",
    "Draw",
    "Estimator",
    "Evaluation",
    "FKSteering",
    "FunctionReward",
    "FunctionSampler",
    "GradientAscent",
    "GradientError",
    "Guide",
    "Guided",
    "Hybrid1",
    "Hybrid2",
    "LGD",
    "Layout",
    "Method",
    "ModelError",
    "Moment",
    "NFE",
    "Nested",
    "NoRegularizer",
    "NoiseTape",
    "NoisewardError",
    "NoisewardWarning",
    "NormProjection",
    "Objective",
    "Optimizer",
    "Panel",
    "Pick",
    "Projection",
    "Regularizer",
    "Relay",
    "RemoteReward",
    "Reward",
    "RewardError",
    "RunError",
    "Sampler",
    "Seeds",
    "Shell",
    "Shift",
    "Solution",
    "SpectralProjection",
    "StartOnly",
    "Status",
    "Step",
    "TapeError",
    "TrustRegion",
    "UnitGradient",
    "WeightedSum",
    "ZeroOrderSearch",
    "ZerothOrder",
    "align",
    "coarse_to_fine",
    "differentiable",
    "iterate",
    "optimize",
    "probability",
    "reno",
    "strict_probability",
]

_HOMES = {
    "align": ("align",),
    "ascend": ("GradientAscent",),
    "budget": ("Budget", "Status"),
    "differentiable": ("differentiable",),
    "errors": (
        "ArgumentError", "GradientError", "ModelError", "NoisewardError", "NoisewardWarning",
        "RewardError", "RunError", "TapeError",
    ),
    "estimate": ("Annealed", "Backprop", "Estimator"),
    "evolve": ("ChannelEvolution",),
    "guidance": ("DPS", "FKSteering", "Guided", "LGD"),
    "methods": ("Method", "reno"),
    "moments": ("Guide", "Moment", "Pick", "Shift"),
    "nested": ("Nested", "coarse_to_fine"),
    "noise": ("Draw", "Layout", "Seeds"),
    "objective": ("Evaluation", "Objective"),
    "optimize": ("Optimizer", "Step", "iterate"),
    "panel": ("Panel",),
    "perturb": ("Hybrid1", "Hybrid2", "ZerothOrder"),
    "pipelines": ("DiffusersSampler",),
    "recompute": ("NFE",),
    "project": ("NormProjection", "Projection", "SpectralProjection", "StartOnly"),
    "regularize": ("Concentration", "NoRegularizer", "Regularizer", "Shell", "probability"),
    "relay": ("Relay",),
    "reward": ("FunctionReward", "Reward", "UnitGradient", "WeightedSum"),
    "rewards.remote": ("RemoteReward",),
    "sample": ("FunctionSampler", "Sampler"),
    "search": ("BestOfN", "TrustRegion", "ZeroOrderSearch"),
    "shaping": ("Augmented", "Clamped"),
    "solution": ("Solution", "optimize"),
    "strict": ("strict_probability",),
    "tape": ("NoiseTape",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'noiseward' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"noiseward.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Whoever imports a submodule binds it here under its name; a public name is not given up for one."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
