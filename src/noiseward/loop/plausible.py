r"""What a result must pass to count as one: the strict test of its noise, and the image test of its sample.

A reward that is easy to raise is raised furthest by images that the model would never make. So best means best among
the plausible: of the steps that score higher than the best so far, only those count that pass

* the strict test (`noise/typicality.py`), which costs nothing, and
* the image test (`samplers/image_tests.py`), which costs a run of the sampler or two, and is made for those alone.

The level of the image test is not that of a test for errors: what is optimized ends at the edge of what it is allowed,
and that edge should still look like a sample. The best of several fresh noises is tested like anything else, for to
choose the most extreme of many samples finds the model's outliers.

The start counts until something else passes; it is what was asked for, and its image is not tested unless a search that
draws fresh noise would choose it. What scored highest and failed is kept as the *peak*, and shown as such.
"""

from __future__ import annotations

import dataclasses
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.noise.layout import Layout
from noiseward.noise.typicality import strict_probability
from noiseward.samplers.image_tests import ImageTest
from noiseward.samplers.reference_store import ReferenceStore
from noiseward.samplers.sampler import Sampler

__all__ = ["UNTESTED", "Plausible", "Verdict"]

UNTESTED = -1.0  # in the place of a probability


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the tests say of some noise and its samples, row by row.

    Attributes:
        strict: the strict probability of the noise, `(B,)`, float64.
        image: that of the image test, `(B,)`; `UNTESTED` where it was not made.
    """

    strict: Tensor
    image: Tensor

    def record(self) -> dict[str, list[float | None]]:
        """The probabilities as plain numbers; None where a test was not made."""
        return {name: [None if p < 0 else p for p in part.tolist()] for name, part in vars(self).items()}


@final
@dataclasses.dataclass(frozen=True)
class Plausible:
    """The levels of the two tests.

    Arguments:
        strict: the smallest strict probability of a noise that counts; 0 for no test.
        image: the smallest probability of an image that counts; 0 for no test.
        fresh: how many fresh samples of each prompt an image is compared with.

    Raises:
        ArgumentError: a level that is no probability.

    Example:
        >>> Plausible(image=2.0)
        Traceback (most recent call last):
        ...
        noiseward.errors.ArgumentError: image must be in [0, 1), got 2.0
    """

    strict: float = 1e-3
    image: float = 0.1
    fresh: int = 16

    def __post_init__(self) -> None:
        for name in ("strict", "image"):
            if not 0 <= getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def image_test(self, sampler: Sampler, *, store: ReferenceStore | None = None) -> ImageTest | None:
        """The test of a sampler's images, with a store of fresh samples; None where there is to be none."""
        return ImageTest(sampler, fresh=self.fresh, store=store) if self.image > 0 else None

    def judge(
        self,
        noise: Tensor,
        state: Tensor | None,
        layout: Layout,
        *,
        prompt: list[str] | None,
        rows: Tensor | None,
        image_test: ImageTest | None,
        known: Tensor | None = None,
    ) -> Verdict:
        """Test some noise, and the samples of those rows that are asked for and pass.

        Arguments:
            noise: `(B, *noise_shape)`.
            state: their samples as the denoiser knows them, `(B, *X)`, or None.
            layout: of the noise.
            prompt: one per row, or None.
            rows: which samples to test, `(B,)`; None for none.
            image_test: of the sampler.
            known: what it said of some before, `(B,)`; `UNTESTED` for the others.
        """
        strict = strict_probability(noise, layout)[0].cpu()
        image = torch.full_like(strict, UNTESTED) if known is None else known.cpu().clone()
        open_rows = (strict >= self.strict) & (image == UNTESTED)
        chosen = [] if rows is None else (rows.cpu() & open_rows).nonzero().flatten().tolist()
        if image_test is not None and chosen:
            texts = None if prompt is None else [prompt[row] for row in chosen]
            found = image_test(noise[chosen], None if state is None else state[chosen], texts)
            image[chosen] = found.nan_to_num(UNTESTED)
        return Verdict(strict, image)

    def passes(self, strict: Tensor, image: Tensor) -> Tensor:
        """Which rows pass by their probabilities; an image that was not tested passes."""
        return (strict >= self.strict) & ((image >= self.image) | (image < 0))
