r"""A person as the reward: search over noise by choosing among images, round by round.

A round, called a *look*, shows n variations of a center c, each turned from it by the same angle,

.. math:: z_i = \cos\theta \, c + \sin\theta \, \xi_i, \qquad \xi_i \sim N(0, I),

and the person says which they like: by a click, several clicks, a ranking or ratings. Only the order is used, as its
normal scores :math:`w_i`. If the person's taste is linear in the noise, :math:`u(z) = \langle a, z \rangle`, then the
tastes of the variations are n independent normal numbers, and :math:`w_i` is the expected value of the one with the
rank of image i. Images with equal ratings share the mean. The sum over all looks and its evidence,

.. math:: S = \sum w_i \, \xi_i, \qquad V = \sum w_i^2,

point towards a: the expected value of :math:`\langle a, S \rangle` is V |a|. So the center is :math:`S / \sqrt V`,
which is standard normal noise again and expected to be liked by :math:`\sqrt V` standard deviations: it grows with the
root of the looks, where the best of N images grows with the root of the logarithm of N. Variations are liked best at
:math:`\tan\theta = m / \sqrt V`, m the expected largest of n normal numbers; the first look, which has no center, shows
fresh noise.

Tastes are not linear: choices among images far from the present center say less, so S and V are discounted from look to
look. That is an evolution strategy with the weighted recombination of CMA-ES (Hansen and Ostermeier, 2001), on the
sphere and for interactive use (Takagi, 2001), with an angle that follows from the model instead of one that is
adapted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Layout, Seeds
from noiseward.optimizers.candidates import draw_movable

__all__ = ["Look", "PreferenceSearch", "normal_scores"]

KEEP = 0.85  # of what was said before, from look to look
START = 4.0  # evidence of a start that was chosen, in squares of m


def normal_scores(scores: Sequence[float]) -> list[float]:
    """The normal score of each of some scores, which sum to zero; equal scores share theirs.

    Example:
        >>> [round(score, 2) for score in normal_scores([1, 0, 0, 5])]
        [0.3, -0.67, -0.67, 1.05]
    """
    n, normal = len(scores), NormalDist()
    order = sorted(range(n), key=lambda i: scores[i])
    expected = [normal.inv_cdf((rank + 1 - 0.375) / (n + 0.25)) for rank in range(n)]  # Blom, 1958
    groups: dict[float, list[float]] = {}
    for rank, i in enumerate(order):
        groups.setdefault(scores[i], []).append(expected[rank])
    means = {score: sum(group) / len(group) for score, group in groups.items()}
    return [means[score] for score in scores]


@final
@dataclasses.dataclass(frozen=True)
class Look:
    """Variations to look at.

    Attributes:
        noise: `(n, *noise_shape)`.
        fresh: the directions they are turned in, the same shape.
        angle: radians from the center.
    """

    noise: Tensor
    fresh: Tensor
    angle: float


@final
@dataclasses.dataclass(frozen=True)
class PreferenceSearch:
    """What is known of a person's taste; an answer gives a new one, and the old one can be gone back to.

    Arguments:
        layout: of the sampler's noise.
        seed: of the random directions.
        sum: S, `(*noise_shape)`; None before the first answer.
        evidence: V.
        keep: how much of what was said counts after one more look; 1 for no discount.

    Example:
        >>> from noiseward.toys import GaussianModel
        >>> sampler = GaussianModel(steps=4, dim=64).sampler()
        >>> search = PreferenceSearch(sampler.layout)
        >>> for number in range(10):
        ...     look = search.propose(6, number)
        ...     search = search.update(look, sampler(look.noise).mean(1).tolist())
        >>> best = sampler(search.center[None]).mean()
        >>> bool(best > sampler(sampler.init(60)).mean(1).max())  # of as many images
        True
    """

    layout: Layout
    seed: int = 0
    sum: Tensor | None = None
    evidence: float = 0.0
    keep: float = KEEP

    @classmethod
    def begin(cls, layout: Layout, start: Tensor, *, seed: int = 0, count: int = 6) -> PreferenceSearch:
        """Begin at noise that was chosen, `(*noise_shape)`, rather than anywhere."""
        evidence = START * _largest(count) ** 2
        return cls(layout, seed, start * math.sqrt(evidence), evidence)

    @property
    def center(self) -> Tensor | None:
        """The noise that is expected to be liked best, `(*noise_shape)`; None before the first answer."""
        return None if self.sum is None or self.evidence == 0 else self.sum / math.sqrt(self.evidence)

    def propose(self, count: int, number: int, *, spread: float = 1.0) -> Look:
        """Variations to look at.

        Arguments:
            count: n, how many.
            number: of the look; the same number shows the same images again.
            spread: a factor of the tangent of the angle: larger for images that differ more.

        Raises:
            ArgumentError: fewer than two, or no such spread.
        """
        if count < 2 or not 0 < spread < math.inf:
            raise ArgumentError(f"expected count >= 2 and spread > 0, got {count} and {spread}")
        seeds = Seeds((self.seed,)).at(number)
        start = self.layout.draw_noise([self.seed])  # of draws that may not change
        fresh = torch.stack([draw_movable(start, self.layout, seeds, 0, f"variation {i}") for i in range(count)])
        center = self.center
        angle = math.pi / 2 if center is None else math.atan(spread * _largest(count) / math.sqrt(self.evidence))
        fixed = start - _movable(start[0], self.layout)
        turned = fresh if center is None else math.cos(angle) * center + math.sin(angle) * fresh
        return Look(torch.where(fixed != 0, start, turned), fresh, angle)

    def update(self, look: Look, scores: Sequence[float]) -> PreferenceSearch:
        """What is known after an answer.

        Arguments:
            look: what was shown.
            scores: of each image, of which the order counts: 1 for a liked one and 0 for others, ranks, or ratings.

        Raises:
            ArgumentError: not one finite score for each.
        """
        if len(scores) != len(look.noise) or not all(map(math.isfinite, scores)):
            raise ArgumentError(f"expected a number for each of {len(look.noise)} images, got {list(scores)}")
        weights = normal_scores(scores)
        gain = sum(weight**2 for weight in weights)
        if gain < 1e-9:
            return self  # nothing was said
        shift = torch.einsum("i,i...->...", torch.tensor(weights).to(look.fresh), look.fresh)
        before = torch.zeros_like(shift) if self.sum is None else self.sum
        return dataclasses.replace(self, sum=self.keep * before + shift, evidence=self.keep**2 * self.evidence + gain)


def _largest(count: int) -> float:
    """The expected largest of some standard normal numbers."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def _movable(noise: Tensor, layout: Layout) -> Tensor:
    """Noise with zeros on the draws that may not change."""
    kept = noise[None].clone()
    for part, draw in zip(layout.split(kept), layout, strict=True):  # views
        if not draw.movable:
            part.zero_()
    return kept[0]
