r"""The equation that is maximized.

A **sampler** turns **noise** into a sample, a **reward** scores the sample, and a **regularizer** keeps the noise
plausible:

.. math::
    \max_z \; r(M(z, c), c) - \rho(z), \qquad z \sim N(0, I) \text{ a priori.}

M is the sampler, c the prompt, r the reward, :math:`\rho` the penalty. An **optimizer** maximizes the *value*,
the reward minus the penalty.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError
from noiseward.loop.executor import Executor, LocalExecutor
from noiseward.loop.plausible import Plausible, Verdict
from noiseward.noise.regularize import NoRegularizer, Regularizer
from noiseward.rewards.reward import Reward, check_rows, score
from noiseward.samplers.entries import number_prompts, plain_prompts
from noiseward.samplers.image_tests import ImageTest
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import watch_state

__all__ = ["Evaluation", "Objective", "join_evaluations"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The objective at some noise, row by row.

    Attributes:
        sample: `(B, *X)`.
        reward: `(B,)`.
        terms: the rewards it is made of, each `(B,)`, by name.
        penalty: `(B,)`.
        value: `(B,)`, reward - penalty.
        state: the samples as the denoiser knows them, where they are to be tested (`samplers/image_tests.py`).

    Example:
        >>> from noiseward.toys import GaussianModel, Linear
        >>> objective = Objective(GaussianModel(steps=4).sampler(), Linear(1.0))
        >>> found = objective(objective.sampler.init(2, seed=0))
        >>> bool((found.value == found.reward - found.penalty).all())
        True
    """

    sample: Tensor
    reward: Tensor
    terms: dict[str, Tensor]
    penalty: Tensor
    value: Tensor
    state: Tensor | None = None

    def detach(self) -> Evaluation:
        """The same numbers without their graph."""
        terms = {name: term.detach() for name, term in self.terms.items()}
        sample, reward, penalty, value = (
            tensor.detach() for tensor in (self.sample, self.reward, self.penalty, self.value)
        )
        return Evaluation(sample, reward, terms, penalty, value, self.state)


def join_evaluations(parts: Sequence[Evaluation]) -> Evaluation:
    """The evaluation of a batch from those of its parts."""
    if len(parts) == 1:
        return parts[0]
    whole = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in ("sample", "reward", "penalty", "value")
    }
    terms = {name: torch.cat([part.terms[name] for part in parts]) for name in parts[0].terms}
    states = [part.state for part in parts if part.state is not None]
    return Evaluation(**whole, terms=terms, state=torch.cat(states) if len(states) == len(parts) else None)


@final
class Objective:
    """Noise in, evaluation out.

    Arguments:
        sampler: M.
        reward: r.
        prompt: c, one string or one per row.
        regularizer: rho.
        plausible: what a result must pass to be the best; default: nothing.
        image_test: of the sampler, with the fresh samples that it has; default: a new one, where there is to be one.
        multiplier: of each row's penalty, `(B,)`; `iterate` adapts it where rho has a minimum probability.
        executor: what samples candidates; default: this process.

    Example:
        >>> from noiseward.toys import GaussianModel, Quadratic
        >>> model = GaussianModel(steps=4)
        >>> objective = Objective(model.sampler(), Quadratic(3.0))
        >>> evaluation = objective(objective.sampler.init(2, seed=0))
        >>> evaluation.value.shape
        torch.Size([2])
    """

    def __init__(
        self,
        sampler: Sampler,
        reward: Reward,
        prompt: Prompt = None,
        regularizer: Regularizer | None = None,
        *,
        plausible: Plausible | None = None,
        image_test: ImageTest | None = None,
        multiplier: Tensor | None = None,
        executor: Executor | None = None,
    ) -> None:
        for value, kind in ((sampler, Sampler), (reward, Reward)):
            if not isinstance(value, kind):
                name = kind.__name__
                raise ArgumentError(f"expected a {name}, got {value!r}; wrap a function in Function{name}")
        if sampler.by_row and prompt is not None and not isinstance(prompt, str):
            prompt = number_prompts(prompt, len(prompt))
        self.sampler, self.reward, self.prompt = sampler, reward, prompt
        sampler.expect(prompt)
        self.regularizer, self.multiplier = regularizer or NoRegularizer(), multiplier
        self.plausible = plausible
        self.image_test = image_test if plausible is None or image_test else plausible.image_test(sampler)
        self.executor = executor or LocalExecutor()
        self._rows_checked = [False]  # shared with copies

    def __call__(self, noise: Tensor) -> Evaluation:
        """Sample, score and weigh noise `(B, *noise_shape)`."""
        if self.image_test is None or self.image_test.trouble is not None:
            return self.judge(noise, self.sampler(noise, self.prompt))
        with watch_state() as watch:
            sample = self.sampler(noise, self.prompt)
        return self.judge(noise, sample, state=watch.state)

    def judge(self, noise: Tensor, sample: Tensor, *, state: Tensor | None = None) -> Evaluation:
        """Score and weigh noise with its samples `(B, *X)`; those in half precision become float32."""
        sample = sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample
        prompts = plain_prompts(expand_prompts(self.prompt, noise.shape[0]))
        reward, terms = score(self.reward, sample, prompts)
        if not self._rows_checked[0] and noise.shape[0] > 1:
            check_rows(self.reward, sample, prompts, terms)
            self._rows_checked[0] = True
        penalty = self.penalty(noise)
        return Evaluation(sample, reward, terms, penalty, reward - penalty.to(reward.dtype), state)

    def test(
        self,
        noise: Tensor,
        state: Tensor | None = None,
        rows: Tensor | None = None,
        *,
        known: Tensor | None = None,
    ) -> Verdict | None:
        """Test noise and, for some rows `(B,)`, its samples; None where results do not have to pass anything.

        Arguments:
            noise: `(B, *noise_shape)`.
            state: `Evaluation.state`; None: it is found out.
            rows: which samples to test; default: none.
            known: what the image test said before, `(B,)`; those rows are not tested again.
        """
        if self.plausible is None:
            return None
        layout, prompt = self.sampler.layout, expand_prompts(self.prompt, noise.shape[0])
        with torch.no_grad():
            return self.plausible.judge(
                noise.detach(), state, layout, prompt=prompt, rows=rows, image_test=self.image_test, known=known
            )

    def penalty(self, noise: Tensor) -> Tensor:
        """The penalty `(B,)` of noise `(B, *noise_shape)`; the sampler is not called."""
        penalty = self.regularizer(noise, self.sampler.layout)
        return penalty if self.multiplier is None else penalty * self.multiplier.to(penalty)

    def with_multiplier(self, multiplier: Tensor | None) -> Objective:
        """The same objective with each row's penalty multiplied by a number of its own, `(B,)`; None for none."""
        return self._replace(multiplier=multiplier)

    def with_executor(self, executor: Executor) -> Objective:
        """The same objective with its candidates sampled elsewhere."""
        return self._replace(executor=executor)

    def repeat(self, times: int) -> Objective:
        """The objective of a batch in which each row is repeated `times` times in succession."""
        rows = 1 if self.prompt is None or isinstance(self.prompt, str) else len(self.prompt)
        rows = rows if self.multiplier is None else len(self.multiplier)
        return self.rows([row for row in range(rows) for _ in range(times)])

    def rows(self, index: Sequence[int]) -> Objective:
        """The objective of some rows of the batch."""
        prompt, multiplier = self.prompt, self.multiplier
        if prompt is not None and not isinstance(prompt, str):
            prompt = [prompt[row] for row in index]
        elif self.sampler.by_row:
            raise ArgumentError(
                f"prompt: expected one per row, since rows have a {self.sampler.by_row[0]} of their own, got "
                f"{prompt!r} for all; repeat it, or pass entries.number_prompts(None, rows)"
            )
        self.sampler.expect(prompt)
        return self._replace(prompt=prompt, multiplier=None if multiplier is None else multiplier[list(index)])

    def _replace(self, **changes: Any) -> Objective:
        other = copy.copy(self)
        vars(other).update(changes)
        return other
