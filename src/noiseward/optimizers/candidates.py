"""Candidates: many noises per row, evaluated without a graph.

Row i of a batch gets q candidates. They are sampled in the order row 0's, row 1's, ... in pieces of at most `chunk`
rows per call of the sampler, here or by a crew (`crew.py`), so that memory is that of one piece whatever q is. What is
kept of all of them is their samples, which are small beside what it took to make them; a candidate's noise is made when
its piece comes, and made again from its seed by whoever needs it again.

A black-box reward is then called once, with all candidates, so that one behind HTTP or on another machine can work on
them at the same time. A differentiable one is a network on this device more often than not, and scores the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, line
from noiseward.loop.objective import Evaluation, Objective
from noiseward.noise.layout import Layout, Seeds
from noiseward.rewards.reward import score
from noiseward.samplers.cost import NFE, current_meter
from noiseward.samplers.entries import plain_prompts
from noiseward.samplers.sampler import Prompt, expand_prompts

__all__ = [
    "select_best",
    "check_counts",
    "compare",
    "evaluate",
    "draw_movable",
    "keep_fixed",
    "comparable",
    "score_chunks",
]

MOST = 65_536  # candidates of a row in one step: their samples are kept side by side


def evaluate(
    objective: Objective, make: Callable[[int, int], Tensor], *, rows: int, count: int, chunk: int, penalty: bool = True
) -> Evaluation:
    """The evaluation of candidates, each field `(B, q, ...)`.

    Every row is counted the calls of its own q candidates, however the batch was cut.

    Arguments:
        objective: of the batch, B rows.
        make: `make(row, i)` is candidate i of a row, `noise_shape`.
        rows, count: B and q.
        chunk: rows per call of the sampler.
        penalty: False for a penalty of zero, where nobody asks for it.
    """
    repeated = objective.repeat(count)
    total = rows * count
    samples: Tensor | None = None
    weighed: list[Tensor] = []
    pieces = [range(begin, min(begin + chunk, total)) for begin in range(0, total, chunk)]
    once = NFE()

    def noises() -> Iterator[tuple[Tensor, Prompt]]:
        for piece in pieces:
            noise = torch.stack([make(index // count, index % count) for index in piece])
            mine = repeated.rows(piece)
            weighed.append(mine.penalty(noise) if penalty else noise.new_zeros(len(piece)))
            yield noise, mine.prompt

    with torch.no_grad():
        for piece, (sample, nfe) in zip(pieces, objective.executor.run(objective.sampler, noises()), strict=True):
            samples = sample.new_empty(total, *sample.shape[1:]) if samples is None else samples
            samples[piece.start : piece.stop] = sample
            once = nfe
        assert samples is not None
        current_meter().count(once * count)
        reward, terms = score_chunks(repeated, samples, chunk)
    penalties = torch.cat(weighed)
    evaluation = Evaluation(samples, reward, terms, penalties, reward - penalties.to(reward.dtype))
    return _folded(evaluation, rows, count)


def score_chunks(objective: Objective, samples: Tensor, chunk: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards and terms of samples: at once by a black box, `chunk` rows at a time by a differentiable reward."""
    texts = plain_prompts(expand_prompts(objective.prompt, samples.shape[0]))
    step = chunk if objective.reward.differentiable else samples.shape[0]
    found = []
    with torch.no_grad():
        for begin in range(0, samples.shape[0], step):
            part = slice(begin, begin + step)
            found.append(score(objective.reward, samples[part], texts[part] if texts else None))
    terms = {name: torch.cat([one[name] for _, one in found]) for name in found[0][1]}
    return torch.cat([total for total, _ in found]), terms


def compare(
    objective: Objective, noise: Tensor, make: Callable[[int, int], Tensor], *, count: int, chunk: int
) -> tuple[Evaluation, Evaluation]:
    """The evaluations of the noise, without a graph, and of its candidates, `(B, q, ...)`."""
    with torch.no_grad():
        evaluation = objective(noise)
    return evaluation, evaluate(objective, make, rows=noise.shape[0], count=count, chunk=chunk)


def comparable(value: Tensor) -> Tensor:
    """Values to compare: what is not finite loses."""
    return torch.where(value.isfinite(), value, -torch.inf)


def select_best(evaluation: Evaluation, noise: Tensor, found: Evaluation, make: Callable[[int, int], Tensor]) -> Tensor:
    """Per row the candidate of the highest value if it beats the noise, else the noise."""
    value, which = comparable(found.value).max(1)
    wins = (value > comparable(evaluation.value)).tolist()
    return torch.stack([make(row, i) if wins[row] else noise[row] for row, i in enumerate(which.tolist())])


def keep_fixed(new: Tensor, old: Tensor, layout: Layout) -> Tensor:
    """One row's noise `noise_shape`: the new draws where they move, the old ones elsewhere."""
    parts = zip(layout.split(new[None]), layout.split(old[None]), layout, strict=True)
    return layout.join([a if draw.movable else b for a, b, draw in parts])[0]


def draw_movable(noise: Tensor, layout: Layout, seeds: Seeds, row: int, purpose: str) -> Tensor:
    """Standard normal noise for one row, `noise_shape`; zero on draws that do not move."""
    drawn = torch.randn(noise.shape[1:], generator=seeds.generator(row, purpose), dtype=noise.dtype)
    for part, draw in zip(layout.split(drawn[None]), layout, strict=True):  # views
        if not draw.movable:
            part.zero_()
    return drawn.to(noise.device)


def check_counts(**counts: int) -> None:
    """Raise `ArgumentError` unless every count is a whole number, at least 1, of things that can be made at all."""
    for name, count in counts.items():
        if not (isinstance(count, int) and count >= 1):
            raise ArgumentError(f"{name}={count} given: a whole number, at least 1, wanted")
        if count > MOST:
            raise ArgumentError(f"{name} must be <= {MOST:,}, got {line(str(count), 40)}: take fewer, and more steps")


def _folded(evaluation: Evaluation, rows: int, count: int) -> Evaluation:
    sample, reward, penalty, value = (
        part.unflatten(0, (rows, count))
        for part in (evaluation.sample, evaluation.reward, evaluation.penalty, evaluation.value)
    )
    terms = {name: term.unflatten(0, (rows, count)) for name, term in evaluation.terms.items()}
    return Evaluation(sample, reward, terms, penalty, value)
