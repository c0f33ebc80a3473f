"""A sampler of few DDIM steps for one of many, and how the noise of the two belongs together (`nested.py`)."""

from __future__ import annotations

from noiseward.errors import ArgumentError, NoisewardError, describe_error, shorten
from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.pipelines.calls import get_default
from noiseward.pipelines.schedulers import copy_scheduler
from noiseward.samplers.nested import Nested
from noiseward.samplers.sampler import Sampler

__all__ = ["coarsen", "list_levels"]


def coarsen(sampler: Sampler, steps: int) -> tuple[DiffusersSampler, Nested]:
    """Make a sampler of the same model that takes fewer steps, and relate the noise of the two.

    Raises:
        ArgumentError: a sampler other than DDIM at eta = 1 of a diffusers pipeline, or a number of steps that is not
            nested in its own.

    Example:
        >>> from noiseward.pipelines.open import open_sampler
        >>> few, nested = coarsen(open_sampler("stickers", call={"num_inference_steps": 10}), 5)
        >>> nested.matrix.shape
        torch.Size([6, 11])
    """
    if steps < 1:
        raise ArgumentError(f"coarse must be >= 1, got {steps}; give fewer steps than num_inference_steps")
    if not isinstance(sampler, DiffusersSampler):
        raise ArgumentError(
            f"coarse= needs a diffusers pipeline with DDIM and eta=1, got a {type(sampler).__name__}; leave it out, or "
            "call noiseward.coarse_to_fine, if your own sampler is DDIM with eta=1"
        )
    few = sampler.with_call(num_inference_steps=steps)
    try:
        return few, Nested(list_levels(few), list_levels(sampler))
    except NoisewardError:
        raise
    except Exception as error:  # whatever a scheduler raises for a number of steps it cannot take
        raise ArgumentError(
            f"coarse={shorten(str(steps), 40)} does not fit the scheduler ({describe_error(error, 200)}); give fewer "
            "steps than num_inference_steps"
        ) from error


def list_levels(sampler: DiffusersSampler) -> list[float]:
    """The level a of each state of a run, rising, and of the end.

    Raises:
        ArgumentError: it is not DDIM at eta = 1, or does not begin with noise alone.
    """
    from diffusers import DDIMScheduler

    call = sampler.arguments
    scheduler = copy_scheduler(sampler.pipe.scheduler)
    reason = None
    if type(scheduler) is not DDIMScheduler:
        reason = f"{type(scheduler).__name__}; give scheduler='ddim'"
    elif call.get("eta") != 1:
        reason = f"eta={call.get('eta', 0)}; give eta=1"
    elif call.get("timesteps") is not None:
        reason = "timesteps=; give num_inference_steps="
    if reason is not None:
        raise ArgumentError(f"coarse to fine needs DDIM with eta=1, got {reason}")
    count = call.get("num_inference_steps", get_default(sampler.pipe, "num_inference_steps"))
    scheduler.set_timesteps(count)
    times = [int(time) for time in scheduler.timesteps]
    roles = [draw.role for draw in sampler.layout]
    if roles != ["start", *["step"] * len(times)]:
        raise ArgumentError(
            f"coarse to fine needs one draw at the start and one per step, got {len(roles)} draws "
            f"({', '.join(sorted(set(roles)))}) for {len(times)} steps of {type(sampler.pipe).__name__}"
        )
    trained = int(scheduler.config["num_train_timesteps"])
    stride = trained // count
    ends = [time - stride for time in times]
    if times[1:] != ends[:-1]:
        raise ArgumentError(
            f"coarse to fine needs steps of equal length, got num_inference_steps={count}; give a number that divides "
            f"{trained}"
        )
    final = scheduler.alphas_cumprod[ends[-1]] if ends[-1] >= 0 else scheduler.final_alpha_cumprod
    return [float(scheduler.alphas_cumprod[time].double()) for time in times] + [float(final)]
