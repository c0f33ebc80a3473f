"""Why no gradient can be taken through a sampler, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import Literal

from noiseward.errors import GradientError
from noiseward.samplers.location import DISTRIBUTIONS, error_location, summarize_error
from noiseward.samplers.witness import Witness

__all__ = ["Trouble", "describe_cut", "describe_fault"]


@dataclasses.dataclass(frozen=True)
class Trouble:
    """Why no gradient can be taken.

    Arguments:
        kind: `cut`: the graph does not reach the sample, and where it ends is found out when a gradient is needed;
            `fails`: torch fails on the way back, and where is found out likewise; or `other`.
        says: as far as it is known.
    """

    kind: Literal["cut", "fails", "other"]
    says: str


def describe_fault(error: Exception) -> Trouble:
    """Describe what went wrong in taking a gradient."""
    if isinstance(error, GradientError):
        return Trouble("other", str(error))
    if "Inference tensor" in str(error) or "inference tensor" in str(error):
        return Trouble(
            "other", "its weights, or other tensors, were made inside torch.inference_mode(); make them outside"
        )
    if "differentiated Tensors does not require grad" in str(error):
        return Trouble("other", "its own checkpoint function wants the gradient of frozen weights; set them to "
                       "requires_grad_(True), or turn its checkpointing off")  # fmt: skip
    at = f" at {place}" if (place := error_location(error)) else ""
    return Trouble("fails" if place is None else "other", f"its gradient fails{at} ({summarize_error(error)})")


def describe_cut(witness: Witness) -> str:
    """Describe what cut a graph, and how to lift it."""
    if not witness.cuts:
        return "it leaves torch"
    what, where = witness.cuts[0]
    seen = f"{what} at {where} cuts its graph" if where else f"{what} cuts its graph"
    if what == DISTRIBUTIONS:
        return f"{seen}; call rsample() there"
    if "no_grad" in what or "inference" in what:
        return f"{seen}; run it with noiseward.differentiable(), as in FunctionSampler(differentiable()(fn))"
    if "detach" in what:
        return f"{seen}; run it with noiseward.differentiable(detach=True)"
    if what == "no gradient":
        return f"{where} returns a constant of what it is given; run it with noiseward.differentiable()"
    return f"{seen}; keep to torch there"
