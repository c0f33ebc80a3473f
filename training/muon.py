"""Muon: momentum whose matrices are made orthogonal before they are applied.

For a weight matrix W (a convolution kernel is flattened to out x (in * height * width)) with gradient G,

    M <- b M + (1 - b) G,    W <- (1 - r d) W - r max(1, rows / columns)^1/2 orth((1 - b) G + b M),

where orth(X) is the nearest orthogonal matrix, U V^T of the singular value decomposition, found by a
quintic Newton-Schulz iteration. All directions of a layer move equally fast. On these small networks it
needs a fraction of AdamW's steps, at a cost per step that does not grow with the batch. Vectors, embeddings
and the first and last layers are left to AdamW.

References:
    Keller Jordan et al., Muon: an optimizer for hidden layers in neural networks,
    https://kellerjordan.github.io/posts/muon/
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonal(matrices: Tensor, iterations: int = 5) -> Tensor:
    """About U V^T for each of the matrices (N, rows, columns); singular values end between 0.7 and 1.2.

    The iteration X <- (a + b X X^T + c (X X^T)^2) X only ever multiplies X from the left by polynomials of its Gram
    matrix A, so it runs on A alone, P <- Q P and A <- Q A Q with Q = a + b A + c A^2, and X is multiplied once.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    eye = torch.eye(gram.shape[1]).expand_as(gram)
    product = eye
    for n in range(iterations):
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) + 3.4445 * eye
        product = factor @ product if n else factor
        if n + 1 < iterations:
            gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions; those of one shape are treated together.

    Arguments:
        params: the parameters.
        lr: the rate r.
        momentum: b.
        weight_decay: d.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                updates = []
                for p in params:
                    if not self.state[p]:
                        self.state[p]["momentum"] = torch.zeros_like(p)
                    kept = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(kept, group["momentum"]).flatten(1))
                scale = max(1.0, shape[0] / shape[1:].numel()) ** 0.5
                for p, update in zip(params, orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.reshape(shape), alpha=-group["lr"] * scale)
