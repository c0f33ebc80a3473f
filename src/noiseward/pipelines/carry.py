r"""Noise that was found for one sampler, for another of the same model: more steps, another solver, a larger image.

It is done where nothing has to be guessed, and the noise stays Gaussian exactly:

* *Steps* of DDIM with :math:`\eta = 1`, where one schedule is nested in the other (`samplers/nested.py`). More steps
  mix the found noise with fresh noise for what fewer ones do not determine; fewer steps take the sums.
* *Solvers and steps of an ODE*: its one draw, the start, is the same for all.
* *Sizes*: a pixel of the found start or step noise z becomes k x k ones with its value over k, and fresh noise whose
  blocks have the mean zero fills the rest,

  .. math:: z' = \frac1k \, U z + (I - U D) \, \xi,

  where U repeats and D takes the mean of each block. :math:`\tfrac1k U` has orthonormal columns, so z' is standard
  normal if z and :math:`\xi` are, and :math:`k D z' = z` leads back. Sizes that are no multiples are refused.

How close the image is to the one that was found is another matter: as close as steps of the sampler are to each other,
and as the model is to itself at another size.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d

from noiseward.errors import ArgumentError, NoisewardError
from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.pipelines.calls import get_default
from noiseward.pipelines.coarsen import list_levels
from noiseward.pipelines.schedulers import replace_scheduler
from noiseward.samplers.nested import Nested
from noiseward.samplers.sampler import Sampler

__all__ = ["carry_noise", "change_sampler", "resize_noise"]

AGAIN = "run it again with these settings"


def change_sampler(sampler: Sampler, *, scheduler: str | None = None, **call: Any) -> Sampler:
    """A sampler of the same model that is called in another way.

    Arguments:
        sampler: of a diffusers pipeline.
        scheduler: a short name or a class of diffusers; None: its own.
        call: arguments of the pipeline's call.

    Raises:
        ArgumentError: it is no pipeline, or takes no such argument.
        ModelError: there is no such scheduler for it.
    """
    if scheduler is None and not call:
        return sampler
    if not isinstance(sampler, DiffusersSampler):
        names = ", ".join([*(["scheduler"] if scheduler else []), *call])
        raise ArgumentError(f"{names} can be changed for a diffusers pipeline, got a {type(sampler).__name__}; {AGAIN}")
    pipe = sampler.pipe
    if scheduler is not None:
        if "scheduler" not in pipe.components:
            raise ArgumentError(f"{type(pipe).__name__} has no scheduler to replace; leave scheduler out")
        pipe = copy.copy(pipe)
        pipe.scheduler = replace_scheduler(pipe.scheduler, scheduler)
    return sampler.with_pipe(pipe, **call)


def carry_noise(noise: Tensor, old: Sampler, new: Sampler, *, rest: Tensor) -> Tensor:
    """Convert the noise of one sampler to that of another of the same model.

    Arguments:
        noise: `(B, *old.noise_shape)`.
        old: what it was found for.
        new: what it is to be for.
        rest: `(B, *new.noise_shape)`, fresh noise for all that it does not determine.

    Raises:
        ArgumentError: it cannot be carried over exactly; the message says why.
    """
    if new is old:
        return noise
    assert isinstance(old, DiffusersSampler) and isinstance(new, DiffusersSampler)
    if _is_stochastic(old) != _is_stochastic(new):
        more, less = (old, new) if _is_stochastic(old) else (new, old)
        raise ArgumentError(
            f"{_name(more)} draws noise at its steps and {_name(less)} does not, so the noise of one does not fit the "
            f"other; {AGAIN}"
        )
    if _is_stochastic(old) and _schedule(old) != _schedule(new):
        return _carry_steps(noise, old, new, rest)
    return resize_noise(noise, rest)


def _carry_steps(noise: Tensor, old: DiffusersSampler, new: DiffusersSampler, rest: Tensor) -> Tensor:
    """Noise of DDIM for another number of steps."""
    from diffusers import DDIMScheduler

    for one in (old, new):
        if type(one.pipe.scheduler) is not DDIMScheduler or one.arguments.get("eta") != 1:
            raise ArgumentError(
                f"noise of several draws is carried over between samplers of DDIM with eta=1 alone, got {_name(one)}; "
                f"{AGAIN}"
            )
    nested = _nest(old, new)
    if _count(new) < _count(old):
        return resize_noise(nested.coarsen(noise), rest)
    # What fewer steps see of the fresh noise is independent of what they do not: each is used once.
    return nested.refine(resize_noise(noise, nested.coarsen(rest)), rest=rest)


def _nest(old: DiffusersSampler, new: DiffusersSampler) -> Nested:
    """How the noise of two numbers of steps belongs together."""
    was, now = _count(old), _count(new)
    if any(draw.role == "other" for draw in old.layout):
        raise ArgumentError(
            f"{type(old.pipe).__name__} starts from an image, where noise of {was} steps fits no other number; {AGAIN}"
        )
    try:
        coarse, fine = (list_levels(one) for one in ((new, old) if now < was else (old, new)))
        return Nested(coarse, fine)
    except NoisewardError as error:
        if was == now:
            raise ArgumentError(f"its steps are at other levels of noise than those of the run; {AGAIN}") from error
        trained = int(old.pipe.scheduler.config["num_train_timesteps"])
        whole = [n for n in range(1, trained) if trained % n == 0 and (n % was == 0 or was % n == 0) and n != was]
        raise ArgumentError(
            f"num_inference_steps={now} is not nested with the {was} of the run, so its noise cannot be carried over "
            f"exactly; give one of {', '.join(str(n) for n in whole if n <= 10 * was) or 'none'}"
        ) from error


def resize_noise(noise: Tensor, rest: Tensor) -> Tensor:
    """Standard normal noise of another height and width, each a multiple or a whole part of what it was.

    Arguments:
        noise: `(B, K, C, h, w)`.
        rest: `(B, K, C, H, W)`, for what the noise does not determine.

    Example:
        >>> import torch
        >>> small, rest = torch.randn(1, 2, 4, 8, 8), torch.randn(1, 2, 4, 16, 8)
        >>> large = resize_noise(small, rest)
        >>> large.shape, torch.allclose(resize_noise(large, small), small, atol=1e-6)
        (torch.Size([1, 2, 4, 16, 8]), True)
    """
    if noise.shape == rest.shape:
        return noise
    if noise.ndim != 5 or rest.ndim != 5 or noise.shape[:3] != rest.shape[:3]:
        raise ArgumentError(
            f"noise of shape {tuple(noise.shape[1:])} is carried over to {tuple(rest.shape[1:])} only where both are "
            f"images with the same channels; {AGAIN}"
        )
    factors = [_compare(*pair) for pair in zip(noise.shape[3:], rest.shape[3:], strict=True)]
    if None in factors:
        sizes = " to ".join(f"{shape[4]} x {shape[3]}" for shape in (noise.shape, rest.shape))
        raise ArgumentError(
            f"noise is carried over exactly to multiples or whole parts of its height and width, got {sizes} latents; "
            "give such a height and width"
        )
    up, down = ([pair[k] for pair in factors if pair] for k in (0, 1))
    return _spread(_merge(noise, down), up) + rest - _spread(_merge(rest, up), up)


def _compare(before: int, after: int) -> tuple[int, int] | None:
    """How many times longer a side becomes, and how many times shorter; None where it is no multiple."""
    if after % before == 0:
        return after // before, 1
    return (1, before // after) if before % after == 0 else None


def _merge(noise: Tensor, factors: list[int]) -> Tensor:
    """The sums of blocks, divided so that they are standard normal."""
    merged = avg_pool2d(noise.flatten(0, 1), factors) * math.sqrt(math.prod(factors))
    return merged.unflatten(0, noise.shape[:2])


def _spread(noise: Tensor, factors: list[int]) -> Tensor:
    """The transpose of `_merge`."""
    for axis, factor in zip((3, 4), factors, strict=True):
        noise = noise.repeat_interleave(factor, axis)
    return noise / math.sqrt(math.prod(factors))


def _is_stochastic(sampler: Sampler) -> bool:
    return any(draw.role == "step" for draw in sampler.layout)


def _name(sampler: DiffusersSampler) -> str:
    """Scheduler and eta of a sampler."""
    kind, eta = type(sampler.pipe.scheduler).__name__, sampler.arguments.get("eta")
    return f"{kind} with eta={eta:g}" if eta is not None and kind == "DDIMScheduler" else kind


def _count(sampler: DiffusersSampler) -> int:
    return int(sampler.arguments.get("num_inference_steps", get_default(sampler.pipe, "num_inference_steps")))


def _schedule(sampler: DiffusersSampler) -> tuple[Any, ...]:
    """What the meaning of the noise of steps depends on."""
    scheduler, call = sampler.pipe.scheduler, sampler.arguments
    settings = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    listed = tuple(repr(call.get(name)) for name in ("timesteps", "sigmas", "eta", "strength"))
    return (type(scheduler), repr(sorted(settings.items())), _count(sampler), listed)
