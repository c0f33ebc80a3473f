r"""Tilting: guided runs, as strong as the tests allow, with a strength that each row adapts for itself.

One step makes one guided run per row (`guidance/ntrk.py`) and keeps it where it scores higher and passes the tests.
What it starts from changes by turns: the noise itself at first, then fresh noise, which explores, and the best noise so
far turned by an angle, which refines. Three numbers per row adapt: the share :math:`\rho` of the gradient in the noise,
one for each of the two kinds of run, is multiplied by 1.3 after a run that passes the tests and by 0.4 after one that
fails; the sine of the angle is multiplied by 1.2 after a turned run that succeeds, divided by it after one that passes
the tests and scores no higher, and left alone after one that fails.

What a step costs, per row: the evaluation of the noise, a guided run with a backward per denoiser call, and the image
test where the result scores higher. When not to use it: the reward is a black box, or the sampler has no
noise of its own.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, TapeError
from noiseward.loop.objective import Evaluation, Objective, join_evaluations
from noiseward.loop.optimizer import KNOWN, Move, Optimizer, State
from noiseward.loop.plausible import Verdict
from noiseward.loop.step import select_rows
from noiseward.noise.layout import Layout, Seeds
from noiseward.optimizers.candidates import check_counts, draw_movable, keep_fixed
from noiseward.optimizers.guidance.guided import Guided, guide_rows, run_seed
from noiseward.optimizers.guidance.ntrk import NTRK
from noiseward.optimizers.search import turn
from noiseward.samplers.cost import NFE, count_calls, current_meter

__all__ = ["Tilting"]

LARGEST, FIRST_SINE, SINES = 0.4, 0.5, (0.05, 0.9)


@final
class Tilting(Optimizer):
    """Guided runs with an adaptive share; the best that passes is kept.

    Arguments:
        share: the share of the first run.
        keep_seed: never draw fresh noise before the first denoising step, so that the result stays that of the seed.
        chunk: rows per guided run.

    Example:
        >>> from noiseward import Budget, Objective, Plausible, optimize
        >>> from noiseward.toys import GaussianModel, Linear
        >>> sampler = GaussianModel(steps=4, dim=64).sampler()
        >>> objective = Objective(sampler, Linear(1.0), plausible=Plausible())
        >>> solution = optimize(objective, sampler.init(2), optimizer=Tilting(), budget=Budget(steps=6))
        >>> bool((solution.gain > 0).all()), all(p > 0.001 for p in solution.strict_probability)
        (True, True)
    """

    def __init__(self, share: float = 0.1, *, keep_seed: bool = False, chunk: int = 16) -> None:
        check_counts(chunk=chunk)
        if not 0 < share <= LARGEST:
            raise ArgumentError(f"share must be in (0, {LARGEST}], got {share}")
        self.share, self.keep_seed, self.chunk = share, keep_seed, chunk

    @staticmethod
    def owns(state: State) -> bool:
        """Whether a state is one of its own."""
        return "runs" in state

    def check(self, objective: Objective) -> None:
        Guided(NTRK()).check(objective)

    def step(self, objective: Objective, noise: Tensor, state: State, seeds: Seeds) -> Move:
        rows = len(noise)
        with torch.no_grad():
            evaluation = objective(noise)
        if self.owns(state):
            state = {name: part.cpu() for name, part in state.items()}  # a resumed run has it where the noise is
            verdict = Verdict(state["strict"], state["image"]) if "strict" in state else None
        else:
            asked = evaluation.value.isfinite() & (seeds.step > 0)  # the start is what was asked for
            verdict = objective.test(noise, evaluation.state, asked, known=state.get(KNOWN))
            numbers = {"runs": 0.0, "share": self.share, "turned_share": self.share, "sine": FIRST_SINE}
            state = {name: torch.full((rows,), number, dtype=torch.float64) for name, number in numbers.items()}
            state |= vars(verdict) if verdict else {}
        turned = (state["runs"] > 0) & (state["runs"] % 2 == 0)
        share = torch.where(turned, state["turned_share"], state["share"])
        found, new = self._run(objective, noise, state, seeds, share)
        higher = new.value.isfinite() & ~(new.value <= evaluation.value)
        told, passed = objective.test(found, new.state, higher), torch.ones(rows, dtype=torch.bool)
        if objective.plausible is not None and told is not None:
            passed = objective.plausible.passes(told.strict, told.image)
        accepted = higher.cpu() & passed
        share = torch.where(passed, (share * 1.3).clamp(max=LARGEST), share * 0.4)
        sine = torch.where(accepted, state["sine"] * 1.2, state["sine"] / 1.2).clamp(*SINES)
        after = {
            "runs": state["runs"] + 1,
            "share": torch.where(turned, state["share"], share),
            "turned_share": torch.where(turned, share, state["turned_share"]),
            "sine": torch.where(turned & passed, sine, state["sine"]),
            **{name: select_rows(accepted, part, state[name]) for name, part in (vars(told) if told else {}).items()},
        }
        return Move(evaluation, select_rows(accepted, found, noise), after, verdict=verdict)

    def _run(
        self, objective: Objective, noise: Tensor, state: State, seeds: Seeds, share: Tensor
    ) -> tuple[Tensor, Evaluation]:
        """A guided run per row: its noise and evaluation."""
        try:
            return self._run_pieces(objective, noise, state, seeds, share, self.chunk)
        except TapeError:  # a sampler that samples rows one at a time
            return self._run_pieces(objective, noise, state, seeds, share, 1)

    def _run_pieces(
        self, objective: Objective, noise: Tensor, state: State, seeds: Seeds, share: Tensor, size: int
    ) -> tuple[Tensor, Evaluation]:
        layout, pieces = objective.sampler.layout, []
        once = NFE()
        for piece in torch.arange(len(noise)).split(size):
            start = torch.stack([self._start(noise, row, state, seeds, layout) for row in piece.tolist()])
            own = Seeds(tuple(run_seed(seeds, row, 0) for row in piece.tolist()))
            with count_calls(apart=True) as meter:
                pieces.append(guide_rows(objective.rows(piece.tolist()), start, NTRK(share[piece]), own))
            once = meter.nfe
        current_meter().count(once)
        return torch.cat([found for found, _ in pieces]), join_evaluations([one for _, one in pieces])

    def _start(self, noise: Tensor, row: int, state: State, seeds: Seeds, layout: Layout) -> Tensor:
        """What a row's guided run starts from, `noise_shape`."""
        if state["runs"][row] == 0:
            return noise[row]
        xi = draw_movable(noise, layout, seeds, row, "start")
        fresh = keep_fixed(xi, noise[row], layout)
        if state["runs"][row] % 2 == 0:
            fresh = turn(noise[row], xi, math.asin(float(state["sine"][row])), layout)
        if not self.keep_seed:
            return fresh
        parts = zip(layout.split(fresh[None]), layout.split(noise[row][None]), layout, strict=True)
        return layout.join([old if draw.role == "start" else new for new, old, draw in parts])[0]
