"""The public names, each with its module: `__init__.py` reads this table, and so do type checkers."""

from noiseward.api import Steps as Steps
from noiseward.api import align as align
from noiseward.api import steps as steps
from noiseward.errors import (
    ArgumentError as ArgumentError,
)
from noiseward.errors import (
    GradientError as GradientError,
)
from noiseward.errors import (
    ModelError as ModelError,
)
from noiseward.errors import (
    NoisewardError as NoisewardError,
)
from noiseward.errors import (
    NoisewardWarning as NoisewardWarning,
)
from noiseward.errors import (
    RewardError as RewardError,
)
from noiseward.errors import (
    RunError as RunError,
)
from noiseward.errors import (
    TapeError as TapeError,
)
from noiseward.loop.budget import Budget as Budget
from noiseward.loop.budget import Status as Status
from noiseward.loop.collect import optimize as optimize
from noiseward.loop.loop import iterate as iterate
from noiseward.loop.objective import Evaluation as Evaluation
from noiseward.loop.objective import Objective as Objective
from noiseward.loop.optimizer import Optimizer as Optimizer
from noiseward.loop.panel import Panel as Panel
from noiseward.loop.plausible import Plausible as Plausible
from noiseward.loop.solution import Solution as Solution
from noiseward.loop.step import Step as Step
from noiseward.methods.recipe import Method as Method
from noiseward.methods.recipe import Recipe as Recipe
from noiseward.noise.layout import Draw as Draw
from noiseward.noise.layout import Layout as Layout
from noiseward.noise.layout import Seeds as Seeds
from noiseward.noise.project import (
    NormProjection as NormProjection,
)
from noiseward.noise.project import (
    Projection as Projection,
)
from noiseward.noise.project import (
    SpectralProjection as SpectralProjection,
)
from noiseward.noise.project import (
    StartOnly as StartOnly,
)
from noiseward.noise.regularize import (
    Concentration as Concentration,
)
from noiseward.noise.regularize import (
    NoRegularizer as NoRegularizer,
)
from noiseward.noise.regularize import (
    Regularizer as Regularizer,
)
from noiseward.noise.regularize import (
    Shell as Shell,
)
from noiseward.noise.regularize import (
    probability as probability,
)
from noiseward.noise.tape import NoiseTape as NoiseTape
from noiseward.noise.typicality import strict_probability as strict_probability
from noiseward.optimizers.ascend import GradientAscent as GradientAscent
from noiseward.optimizers.coarse_to_fine import coarse_to_fine as coarse_to_fine
from noiseward.optimizers.evolve import ChannelEvolution as ChannelEvolution
from noiseward.optimizers.gradient import Annealed as Annealed
from noiseward.optimizers.gradient import Backprop as Backprop
from noiseward.optimizers.gradient import Estimator as Estimator
from noiseward.optimizers.guidance import DPS as DPS
from noiseward.optimizers.guidance import LGD as LGD
from noiseward.optimizers.guidance import NTRK as NTRK
from noiseward.optimizers.guidance import FKSteering as FKSteering
from noiseward.optimizers.guidance import Guided as Guided
from noiseward.optimizers.hybrid import Hybrid1 as Hybrid1
from noiseward.optimizers.hybrid import Hybrid2 as Hybrid2
from noiseward.optimizers.langevin import Langevin as Langevin
from noiseward.optimizers.preference import PreferenceSearch as PreferenceSearch
from noiseward.optimizers.relay import Relay as Relay
from noiseward.optimizers.restarting import Restarting as Restarting
from noiseward.optimizers.search import (
    BestOfN as BestOfN,
)
from noiseward.optimizers.search import (
    TrustRegion as TrustRegion,
)
from noiseward.optimizers.search import (
    ZeroOrderSearch as ZeroOrderSearch,
)
from noiseward.optimizers.steady import Steady as Steady
from noiseward.optimizers.tilting import Tilting as Tilting
from noiseward.optimizers.walk import Walk as Walk
from noiseward.optimizers.zeroth_order import ZerothOrder as ZerothOrder
from noiseward.pipelines.adapter import DiffusersSampler as DiffusersSampler
from noiseward.rewards.remote import RemoteReward as RemoteReward
from noiseward.rewards.requirements import Constrained as Constrained
from noiseward.rewards.requirements import Requirement as Requirement
from noiseward.rewards.reward import (
    FunctionReward as FunctionReward,
)
from noiseward.rewards.reward import (
    Reward as Reward,
)
from noiseward.rewards.reward import (
    UnitGradient as UnitGradient,
)
from noiseward.rewards.reward import (
    WeightedSum as WeightedSum,
)
from noiseward.rewards.shaping import Augmented as Augmented
from noiseward.rewards.shaping import Clamped as Clamped
from noiseward.samplers.cost import NFE as NFE
from noiseward.samplers.cost import count_calls as count_calls
from noiseward.samplers.differentiable import differentiable as differentiable
from noiseward.samplers.function import FunctionSampler as FunctionSampler
from noiseward.samplers.guide import Guide as Guide
from noiseward.samplers.guide import Redraw as Redraw
from noiseward.samplers.guide import Resampling as Resampling
from noiseward.samplers.guide import SamplerStep as SamplerStep
from noiseward.samplers.guide import StateShift as StateShift
from noiseward.samplers.image_tests import ImageTest as ImageTest
from noiseward.samplers.nested import Nested as Nested
from noiseward.samplers.sampler import Sampler as Sampler

__version__: str
__all__: list[str]
