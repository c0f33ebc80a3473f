r"""How steep and how curved reward and sampler together are, at some noise.

With :math:`f = r \circ M`, the squared gradient :math:`\|\nabla f(z)\|^2`, and the largest absolute eigenvalue of
the Hessian, by power iteration on its products with vectors, :math:`v \leftarrow Hv / \|Hv\|`. The norm of Hv for a
unit v is a lower bound of that eigenvalue, and the largest eigenvalue at a few places one of the Lipschitz constant of
the gradient: what is called L in the experiments is an estimate from below.

It also says what :math:`\ell \nabla f` does to f: the reward after a plain step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from noiseward import Budget, GradientAscent, Objective, iterate

__all__ = ["ascend", "curvature", "in_packs", "one_step"]


def curvature(objective: Objective, noise: Tensor, *, iterations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Squared gradient norm and largest absolute eigenvalue of the Hessian of the reward, row by row: two `(B,)`.

    Arguments:
        objective: whose sampler keeps its activations; second derivatives do not pass through a recomputed call.
        noise: `(B, *noise_shape)`.
        iterations: of the power iteration.
        seed: of the vector it starts from.
    """
    variable = noise.detach().requires_grad_(True)
    v = torch.randn(noise.shape, generator=torch.Generator().manual_seed(seed)).to(noise)
    eigenvalue = torch.zeros(len(noise))
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():  # the other attention kernels have no second derivative
        (gradient,) = torch.autograd.grad(objective(variable).reward.sum(), variable, create_graph=True)
        for _ in range(iterations):
            v = v / _norm(v).clamp(min=1e-30).view(-1, *(1,) * (v.ndim - 1))
            (v,) = torch.autograd.grad(gradient, variable, v, retain_graph=True)
            eigenvalue = _norm(v)
    return _norm(gradient.detach()).square(), eigenvalue


def in_packs(function: Callable[[slice], Sequence[Tensor]], rows: int, pack: int) -> list[Tensor]:
    """What a function returns for slices of `pack` rows, put together."""
    parts = [function(slice(first, first + pack)) for first in range(0, rows, pack)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def one_step(objective: Objective, noise: Tensor, sizes: Sequence[float]) -> Tensor:
    """How much the reward changes by one plain step of each size, `(len(sizes), B)`."""
    variable = noise.detach().requires_grad_(True)
    reward = objective(variable).reward
    (gradient,) = torch.autograd.grad(reward.sum(), variable)
    with torch.no_grad():
        return torch.stack([objective(noise + size * gradient).reward - reward for size in sizes])


def ascend(objective: Objective, noise: Tensor, *, size: float, steps: int) -> dict[str, Any]:
    """Plain ascent, z <- z + size * gradient.

    Returns:
        reward and squared gradient norm of each step, lists of one number per row each; and the last noise.
    """
    ascent = GradientAscent(update=torch.optim.SGD, lr=size, max_norm=None)
    rewards, squares, last = [], [], noise
    for step in iterate(objective, noise, optimizer=ascent, budget=Budget(steps=steps)):
        rewards.append(step.evaluation.reward.tolist())
        if step.grad_norm is not None:
            squares.append(step.grad_norm.square().tolist())
        last = step.noise
    return {"reward": rewards, "square": squares, "last": last}


def _norm(z: Tensor) -> Tensor:
    return z.flatten(1).norm(dim=1)
