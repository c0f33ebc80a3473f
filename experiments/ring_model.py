r"""The two-dimensional toy of the paper's Example 1: a ring, a denoiser of it trained here, its samplers, a reward.

Data are points at a uniform angle and a radius uniform in [0.8, 1.2]. The signal level falls linearly,
:math:`a_k = 1 - 0.999 k / T`, over T = 100 steps. With :math:`\hat\epsilon` the denoiser's prediction a step is

.. math::
    x_{k-1} = \sqrt{a_{k-1} / a_k} \, x_k
    + \Big[ \sqrt{1 - a_{k-1} - \sigma_k^2} - \sqrt{a_{k-1} (1 - a_k) / a_k} \Big] \hat\epsilon + \sigma_k z_k,

with :math:`\sigma_k = \eta \sqrt{(1 - a_{k-1}) / (1 - a_k)} \sqrt{1 - a_k / a_{k-1}}` for DDIM, the paper's sampler,
and :math:`\sigma_k = \eta \sqrt{1 - a_{k-1}}` for the one in the published notebook, which at :math:`\eta = 1`
replaces the noise altogether at each step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.cells import hash_key
from experiments.frame import Request
from noiseward import FunctionReward, FunctionSampler

__all__ = ["INNER", "OUTER", "Kind", "Ring", "inside", "points", "ring", "round_samples", "load_ring", "train", "waves"]

INNER, OUTER = 0.8, 1.2
POINTS = 10_000
WIDTH, LAYERS = 64, 3
Kind = Literal["ddim", "notebook"]


def points(count: int, generator: torch.Generator) -> Tensor:
    """Data: `(count, 2)`."""
    angle, place = torch.rand(2, count, generator=generator)
    radius = INNER + (OUTER - INNER) * place
    return torch.stack([radius * (2 * math.pi * angle).cos(), radius * (2 * math.pi * angle).sin()], 1)


def inside(sample: Tensor, slack: float = 0.05) -> Tensor:
    """Whether samples `(B, 2)` lie on the ring, give or take: `(B,)`."""
    radius = sample.norm(dim=1)
    return (radius >= INNER - slack) & (radius <= OUTER + slack)


def _waves(x: Tensor) -> Tensor:
    return (4 * math.pi * x).sin().sum(1) - ((x[:, 0] - 1).square() - x[:, 1].square()) / 5


waves = FunctionReward(
    _waves, name="waves"
)  # the reward of the published notebook: sin 4 pi x + sin 4 pi y - (...) / 5


@final
class Ring(nn.Module):
    """The denoiser: the noise in x `(B, 2)` at signal level k.

    Arguments:
        steps: T.
    """

    def __init__(self, steps: int = 100) -> None:
        super().__init__()
        self.steps = steps
        self.alphas = [1 - 0.999 * k / steps for k in range(steps + 1)]
        level = torch.tensor(self.alphas)[:, None]
        turns = torch.pi * level.sqrt() * torch.tensor([1.0, 2.0, 4.0, 8.0])
        self.register_buffer("levels", torch.cat([level, turns.sin(), turns.cos()], 1), persistent=False)
        self.place, self.level = nn.Linear(2, WIDTH), nn.Linear(9, WIDTH, bias=False)
        self.hidden = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS - 1)])
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, k: Tensor | int) -> Tensor:
        h = nn.functional.silu(self.place(x) + self.level(self.levels[k]))
        for layer in self.hidden:
            h = nn.functional.silu(layer(h))
        return self.out(h)

    def sampler(self, *, eta: float = 1.0, kind: Kind = "ddim") -> FunctionSampler:
        """The sampler as a function of its noise: `(B, K, 2)` to `(B, 2)`, K = 1 + T, or 1 where eta is 0."""
        return FunctionSampler(lambda batch: self._sample(batch, eta, kind), denoiser=self)

    def _sample(self, batch: int, eta: float, kind: Kind) -> Tensor:
        x = torch.randn(batch, 2)
        for k in range(self.steps, 0, -1):
            now, after = self.alphas[k], self.alphas[k - 1]
            keep = math.sqrt(after / now)
            sigma = math.sqrt(1 - after)
            if kind == "ddim":
                sigma *= math.sqrt((1 - now / after) / (1 - now))
            sigma *= eta
            x = keep * x + (math.sqrt(max(1 - after - sigma**2, 0)) - keep * math.sqrt(1 - now)) * self(x, k)
            if eta > 0:
                x = x + sigma * torch.randn(batch, 2)
        return x


def train(model: Ring, *, iterations: int, batch: int = 1024, rate: float = 3e-3, seed: int = 0) -> float:
    """Teach a denoiser the ring; what it then is, is an average over the last of its iterations.

    Returns:
        the loss, a mean over the last tenth.
    """
    generator = torch.Generator().manual_seed(seed)
    data, alphas = points(POINTS, generator), torch.tensor(model.alphas)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    average = [weight.detach().clone() for weight in model.parameters()]
    losses: list[Tensor] = []
    for iteration in range(iterations):
        x = data[torch.randint(POINTS, (batch,), generator=generator)]
        k = torch.randint(1, model.steps + 1, (batch,), generator=generator)
        noise, alpha = torch.randn(batch, 2, generator=generator), alphas[k, None]
        loss = (model(alpha.sqrt() * x + (1 - alpha).sqrt() * noise, k) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        share = min(0.995, iteration / (iteration + 10))
        for mean, weight in zip(average, model.parameters(), strict=True):
            mean.lerp_(weight.detach(), 1 - share)
    with torch.no_grad():
        for mean, weight in zip(average, model.parameters(), strict=True):
            weight.copy_(mean)
    return torch.stack(losses[-max(1, iterations // 10) :]).mean().item()


def ring(root: Path, *, iterations: int, steps: int = 100, seed: int = 0) -> Ring:
    """The trained denoiser; stored, or trained now."""
    torch.manual_seed(seed)
    model = Ring(steps)
    settings = {"iterations": iterations, "steps": steps, "seed": seed, "width": WIDTH, "layers": LAYERS}
    path = root / "ring_model" / f"{hash_key(settings)}.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        train(model, iterations=iterations, seed=seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: part.contiguous() for name, part in model.state_dict().items()}, path)
    return model.eval()


def load_ring(request: Request) -> Ring:
    """The denoiser the experiments share: stored, or trained now."""
    return ring(request.root, iterations=request.pick(12_000, 2_000, 20), steps=request.pick(100, 100, 8))


def round_samples(samples: Sequence[Tensor]) -> list[list[list[float]]]:
    """Samples `(B, 2)` as plain numbers of four digits."""
    return [[[round(value, 4) for value in row] for row in sample.tolist()] for sample in samples]
