r"""Code of diffusers that overwrites what a gradient needs, and the same sum without.

Sampling needs no gradient, so some code saves a copy by writing into a tensor that autograd has kept. In a mixture of
experts, each token's result is

.. math:: y = \sum_{e \in \mathrm{top}(x)} w_e(x) \, f_e(x),

which is added up expert by expert in one tensor; a map of normals is divided in place by the norm it was just asked
for. Done out of place, in the same order, the result has the same bits and a gradient. A pipeline that writes a step's
result into the latents it has just shown its denoiser, as that of Kandinsky 5 does, shows it copies instead.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import types
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map

__all__ = ["add_experts_out_of_place", "copy_inputs", "list_out_of_place", "writes_into_latents"]


def add_experts_out_of_place(module: Module) -> None:
    """Let the mixtures of experts in a module add up their results out of place, from now on."""
    for part in module.modules():
        if hasattr(type(part), "moe_infer"):
            vars(part)["moe_infer"] = types.MethodType(moe_infer, part)


def moe_infer(self: Any, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """The sum over each token's experts; it has the name of what it replaces, by which a copy of the model finds it.

    Arguments:
        tokens: `(N, D)`.
        chosen: numbers of their experts, `(N * k,)`, those of a token next to each other.
        weights: of these, `(N * k, 1)`.
    """
    order, total, begin = chosen.argsort(), torch.zeros_like(tokens), 0
    ends = chosen.bincount(minlength=len(self.experts)).cumsum(0).tolist()
    for expert, end in zip(self.experts, ends, strict=True):
        own = order[begin:end]
        begin = end
        if len(own):
            rows = own // self.num_activated_experts
            result = expert(tokens[rows])
            weighted = (result * weights[own]).to(result.dtype)
            total = total.to(result.dtype).index_add(0, rows, weighted)
    return total


def list_out_of_place(pipe: Any) -> Iterator[tuple[str, Any]]:
    """Names of a pipeline's methods that divide in place, and what to put in their place for a run."""
    if callable(getattr(pipe, "normalize_normals", None)):
        yield "normalize_normals", _normalize_normals


def _normalize_normals(normals: Tensor, eps: float = 1e-6) -> Tensor:
    return normals / torch.norm(normals, dim=1, keepdim=True).clamp(min=eps)


def writes_into_latents(pipe: Any) -> bool:
    """Whether a pipeline's call writes into its latents, by its code."""
    with contextlib.suppress(OSError, TypeError):
        return bool(re.search(r"^\s*latents\[.*\] = ", inspect.getsource(inspect.unwrap(type(pipe).__call__)), re.M))
    return False


@contextlib.contextmanager
def copy_inputs(modules: Sequence[Module]) -> Iterator[None]:
    """In the body of a `with`, modules are called with copies of what has a gradient."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(_copy_moving, with_kwargs=True).remove)
        yield


def _copy_moving(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) and leaf.requires_grad else leaf,
                    (args, kwargs))  # fmt: skip
