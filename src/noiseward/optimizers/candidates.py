"""Candidates: many noises per row, evaluated without a graph.

Row i of a batch gets q candidates. They are sampled in the order row 0's, row 1's, ... in pieces of at most `chunk`
rows per call of the sampler, here or elsewhere (`loop/executor.py`), so that memory is that of one piece whatever q is.
Only their samples are kept; a candidate's noise is made when its piece comes, and made again from its seed where it is
needed again.

A black-box reward is then called once, with all candidates, so that one behind HTTP or on another machine can work on
them at the same time. A differentiable one is usually a network on this device, and scores the pieces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, shorten
from noiseward.loop.objective import Evaluation, Objective
from noiseward.loop.optimizer import KNOWN, Move, State
from noiseward.loop.plausible import UNTESTED
from noiseward.noise.layout import Layout, Seeds
from noiseward.rewards.reward import score
from noiseward.samplers.cost import NFE, current_meter
from noiseward.samplers.entries import plain_prompts
from noiseward.samplers.sampler import Prompt, expand_prompts

__all__ = [
    "Choice",
    "Make",
    "check_counts",
    "check_positive",
    "choose",
    "comparable",
    "compare",
    "draw_movable",
    "evaluate",
    "keep_fixed",
    "score_chunks",
]

TRIES = 3  # candidates of a row that are tested in one step
MOST = 65_536  # candidates of a row in one step: their samples are kept side by side

Make = Callable[[int, int], Tensor]
"""`make(row, i)` is candidate i of a row, `noise_shape`."""


def evaluate(
    objective: Objective, make: Make, *, rows: int, count: int, chunk: int, penalty: bool = True
) -> Evaluation:
    """The evaluation of candidates, each field `(B, q, ...)`.

    Every row is counted the calls of its own q candidates, however the batch was cut.

    Arguments:
        objective: of the batch, B rows.
        make: the candidates.
        rows, count: B and q.
        chunk: rows per call of the sampler.
        penalty: False for a penalty of zero, where it is not needed.
    """
    repeated, total = objective.repeat(count), rows * count
    pieces = [range(begin, min(begin + chunk, total)) for begin in range(0, total, chunk)]
    samples: Tensor | None = None
    penalties: list[Tensor] = []
    once = NFE()

    def noises() -> Iterator[tuple[Tensor, Prompt]]:
        for piece in pieces:
            noise = torch.stack([make(index // count, index % count) for index in piece])
            mine = repeated.rows(piece)
            penalties.append(mine.penalty(noise) if penalty else noise.new_zeros(len(piece)))
            yield noise, mine.prompt

    with torch.no_grad():
        for piece, (sample, nfe) in zip(pieces, objective.executor.run(objective.sampler, noises()), strict=True):
            samples = sample.new_empty(total, *sample.shape[1:]) if samples is None else samples
            samples[piece.start : piece.stop] = sample
            once = nfe
        assert samples is not None
        current_meter().count(once * count)
        reward, terms = score_chunks(repeated, samples, chunk)
    rho = torch.cat(penalties)
    fields = (samples, reward, rho, reward - rho.to(reward.dtype))
    sample, reward, rho, value = (field.unflatten(0, (rows, count)) for field in fields)
    return Evaluation(sample, reward, {k: term.unflatten(0, (rows, count)) for k, term in terms.items()}, rho, value)


def score_chunks(objective: Objective, samples: Tensor, chunk: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards and terms of samples: at once by a black box, `chunk` rows at a time by a differentiable reward."""
    texts = plain_prompts(expand_prompts(objective.prompt, samples.shape[0]))
    size = chunk if objective.reward.differentiable else samples.shape[0]
    scored = []
    with torch.no_grad():
        for begin in range(0, samples.shape[0], size):
            part = slice(begin, begin + size)
            scored.append(score(objective.reward, samples[part], texts[part] if texts else None))
    terms = {name: torch.cat([one[name] for _, one in scored]) for name in scored[0][1]}
    return torch.cat([total for total, _ in scored]), terms


def compare(
    objective: Objective, noise: Tensor, make: Make, *, count: int, chunk: int
) -> tuple[Evaluation, Evaluation]:
    """The evaluations of the noise, without a graph, and of its candidates, `(B, q, ...)`."""
    with torch.no_grad():
        evaluation = objective(noise)
    return evaluation, evaluate(objective, make, rows=noise.shape[0], count=count, chunk=chunk)


def comparable(value: Tensor) -> Tensor:
    """Values to compare: what is not finite loses."""
    return torch.where(value.isfinite(), value, -torch.inf)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the tests leave to choose from, row by row.

    Attributes:
        value: of the noise, `(B,)`; -inf where it was tested and failed.
        values: of the candidates, `(B, q)`; -inf where they may not be chosen.
        own: what the image test said of the noise, `(B,)`; `UNTESTED` where it was not made.
        image: what it said of the highest of all, `(B,)`.
    """

    value: Tensor
    values: Tensor
    own: Tensor
    image: Tensor

    def select(self, noise: Tensor, make: Make) -> Tensor:
        """Per row the candidate of the highest value if that beats the noise's, else the noise."""
        highest, which = self.values.max(1)
        wins = (highest > comparable(self.value)).tolist()
        return torch.stack([make(row, i) if wins[row] else noise[row] for row, i in enumerate(which.tolist())])

    def move(
        self, objective: Objective, evaluation: Evaluation, noise: Tensor, chosen: Tensor, state: State | None = None
    ) -> Move:
        """What a step returns that ends with this choice.

        Arguments:
            objective: of the batch.
            evaluation: of the noise the step started from.
            noise, chosen: that noise, and the next one.
            state: of the optimizer; default: none.
        """
        state = state or {}
        if objective.plausible is None:
            return Move(evaluation, chosen, state)
        verdict = objective.test(noise, known=self.own)
        return Move(evaluation, chosen, {**state, KNOWN: self.image}, verdict=verdict)


def choose(
    objective: Objective,
    noise: Tensor,
    value: Tensor,
    values: Tensor,
    make: Make,
    *,
    known: Tensor | None = None,
    doubt: bool = False,
) -> Choice:
    """Choose among candidates, where results must pass tests among those that pass.

    The highest is tested, then the next, a few per row, or all where the noise itself is in doubt. If none passes, none
    that is better than what there is may be chosen.

    Arguments:
        objective: of the batch.
        noise: what there is, `(B, *noise_shape)`.
        value: what a candidate has to beat, `(B,)`.
        values: of the candidates, `(B, q)`.
        make: the candidates.
        known: what the image test said of the noise, `(B,)`.
        doubt: whether the noise is tested, too, where it would be chosen and nothing is known.
    """
    rows = len(noise)
    own = torch.full((rows,), UNTESTED, dtype=torch.float64) if known is None else known.cpu()
    value, values = comparable(value), comparable(values)
    tests = objective.plausible
    if tests is None:
        return Choice(value, values, own, own)
    value = torch.where(tests.passes(torch.ones_like(own), own).to(value.device), value, -torch.inf)
    own, image, open_rows = own.clone(), own.clone(), torch.ones(rows, dtype=torch.bool)
    for _ in range(values.shape[1] + 1 if doubt else TRIES):
        highest, which = values.max(1)
        stays = (value >= highest).cpu()
        open_rows = open_rows & ~(stays & (own != UNTESTED)) if doubt else open_rows & ~stays
        places = open_rows.nonzero().flatten().tolist()
        if not places:
            break
        tried = torch.stack([noise[row] if stays[row] else make(row, int(which[row])) for row in places])
        verdict = objective.rows(places).test(tried, None, torch.ones(len(places), dtype=torch.bool))
        assert verdict is not None
        passed = tests.passes(verdict.strict, verdict.image)
        for row, fine, p in zip(places, passed.tolist(), verdict.image.tolist(), strict=True):
            open_rows[row] = not fine
            if stays[row]:
                own[row] = image[row] = p
                value[row] = value[row] if fine else -torch.inf
            elif fine:
                image[row] = p
            else:
                values[row, which[row]] = -torch.inf
    untried = open_rows.to(values.device)[:, None] & (values > value[:, None])
    return Choice(value, torch.where(untried, -torch.inf, values), own, image)


def keep_fixed(new: Tensor, old: Tensor, layout: Layout) -> Tensor:
    """One row's noise `noise_shape`: the new draws where they may change, the old ones elsewhere."""
    parts = zip(layout.split(new[None]), layout.split(old[None]), layout, strict=True)
    return layout.join([a if draw.movable else b for a, b, draw in parts])[0]


def draw_movable(noise: Tensor, layout: Layout, seeds: Seeds, row: int, purpose: str) -> Tensor:
    """Standard normal noise for one row, `noise_shape`; zero on draws that may not change."""
    drawn = torch.randn(noise.shape[1:], generator=seeds.generator(row, purpose), dtype=noise.dtype)
    for part, draw in zip(layout.split(drawn[None]), layout, strict=True):  # views
        if not draw.movable:
            part.zero_()
    return drawn.to(noise.device)


def check_counts(**counts: int) -> None:
    """Raise `ArgumentError` unless every count is a whole number from 1 to the most that fits into one step."""
    for name, count in counts.items():
        if not (isinstance(count, int) and count >= 1):
            raise ArgumentError(f"{name} must be a whole number >= 1, got {count}")
        if count > MOST:
            raise ArgumentError(
                f"{name} must be <= {MOST:,}, got {shorten(str(count), 40)}: take fewer, and more steps"
            )


def check_positive(**values: float) -> None:
    """Raise `ArgumentError` unless every value is a positive, finite number."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} must be a positive number, got {value}")
