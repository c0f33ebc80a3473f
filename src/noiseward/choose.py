"""What moves the noise, chosen by name: estimators, searches, projections, and what follows where none is asked for.

A reward with a gradient is climbed by it. One without is searched by `TrustRegion`, measured here at equal denoiser
calls: under jpeg (`experiments/compare.py`, 16 pictures) it gained twice what the paper's Hybrid-2 did, and more than
any other search; under three rewards (`experiments/black_box.py`, 6 pictures) more than any setting of Hybrid-2. Nor
does it need a gradient of the model. Whoever asks for what only an ascent has, a rate or constraints on its moves, gets
Hybrid-2.
"""

from __future__ import annotations

from collections.abc import Sequence

from noiseward.errors import ArgumentError
from noiseward.loop.loop import Optimizer
from noiseward.named import parse
from noiseward.noise.project import NormProjection, Projection, SpectralProjection, StartOnly
from noiseward.optimizers.ascend import GradientAscent
from noiseward.optimizers.evolve import ChannelEvolution
from noiseward.optimizers.gradient import Annealed, Backprop, Estimator
from noiseward.optimizers.guidance import searches
from noiseward.optimizers.relay import Relay
from noiseward.optimizers.search import BestOfN, TrustRegion, ZeroOrderSearch
from noiseward.optimizers.zeroth_order import Hybrid1, Hybrid2, ZerothOrder
from noiseward.rewards.reward import Reward

__all__ = ["DEFAULT_LR", "ESTIMATORS", "SEARCHES", "mover_for", "projections"]

DEFAULT_LR = 0.01
ESTIMATORS = {
    "backprop": Backprop,
    "annealed": Annealed,
    "hybrid2": Hybrid2,
    "hybrid1": Hybrid1,
    "zeroth-order": ZerothOrder,
}
SEARCHES = {
    "best-of-n": BestOfN,
    "zero-order": ZeroOrderSearch,
    "trust-region": TrustRegion,
    "evolution": ChannelEvolution,
    "dps": searches.dps,
    "lgd": searches.lgd,
    "fk": searches.fk,
}
PROJECTIONS = {"norm": NormProjection, "spectral": SpectralProjection, "start": StartOnly}


def mover_for(
    reward: Reward,
    optimizer: Optimizer | str | None,
    estimator: Estimator | str | None,
    *,
    lr: float = DEFAULT_LR,
    project: Sequence[Projection | str] = (),
    best_of: int | None = None,
) -> tuple[Optimizer, str | None]:
    """What moves the noise; and the search, as `optimizer` takes it, where it was not asked for."""
    if optimizer is not None:
        if best_of is not None:
            raise ArgumentError("best_of= given beside an optimizer: Relay(BestOfN(16), optimizer) is both")
        for name, given in (("estimator", estimator), ("project", project)):
            if given:
                raise ArgumentError(f"{name}= given beside an optimizer: GradientAscent takes it itself, a search none")
        return (parse(optimizer, SEARCHES, "search") if isinstance(optimizer, str) else optimizer), None
    if estimator is None and not reward.differentiable:
        if not project and best_of is None and lr == DEFAULT_LR:
            search = TrustRegion()
            return search, f"trust-region:samples={search.samples},regions={search.regions}"
        estimator = "hybrid2"
    source = parse(estimator, ESTIMATORS, "estimator") if isinstance(estimator, str) else estimator
    ascent = GradientAscent(source, lr=lr, project=projections(project))
    return (ascent if best_of is None else Relay(BestOfN(best_of), ascent)), None


def projections(given: Sequence[Projection | str]) -> tuple[Projection, ...]:
    """Projections, where they are given by name made."""
    each = [given] if isinstance(given, str | Projection) else given
    return tuple(parse(one, PROJECTIONS, "projection") if isinstance(one, str) else one for one in each)
