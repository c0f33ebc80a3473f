"""The levels of a pipeline's sampler, where its noise can be carried from few steps to many (`nested.py`)."""

from __future__ import annotations

from noiseward.errors import ArgumentError, NoisewardError, describe_error, shorten
from noiseward.pipelines.adapter import DiffusersSampler
from noiseward.pipelines.calls import default
from noiseward.pipelines.schedulers import fresh
from noiseward.samplers.nested import Nested
from noiseward.samplers.sampler import Sampler

__all__ = ["coarsen", "levels", "nested"]


def coarsen(sampler: Sampler, steps: int) -> tuple[DiffusersSampler, Nested]:
    """A sampler of the same model that takes fewer steps, and how the noise of the two belongs together.

    Raises:
        ArgumentError: a sampler other than DDIM at eta = 1 of a diffusers pipeline, or a number of steps that is not
            nested in its own.
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
        return few, nested(few, sampler)
    except NoisewardError:
        raise
    except Exception as error:  # whatever a scheduler says to a number of steps it cannot take
        raise ArgumentError(
            f"coarse={shorten(str(steps), 40)} does not fit the scheduler ({describe_error(error, 200)}); give fewer "
            "steps than num_inference_steps"
        ) from error


def nested(coarse: DiffusersSampler, fine: DiffusersSampler) -> Nested:
    """How the noise of a sampler of few steps and one of many belong together.

    Raises:
        ArgumentError: a sampler other than DDIM at eta = 1, or numbers of steps that are not nested.

    Example:
        >>> from noiseward import stickers
        >>> from noiseward.pipelines.load import load_pipeline
        >>> pipe = load_pipeline(stickers.path())
        >>> samplers = [DiffusersSampler(pipe, num_inference_steps=steps, eta=1.0) for steps in (5, 10)]
        >>> nested(*samplers).matrix.shape
        torch.Size([6, 11])
    """
    return Nested(levels(coarse), levels(fine))


def levels(sampler: DiffusersSampler) -> list[float]:
    """The level a of each state of a run, rising, and of the end.

    Raises:
        ArgumentError: it is not DDIM at eta = 1, or does not begin with noise alone.
    """
    from diffusers import DDIMScheduler

    given = sampler.arguments
    scheduler = fresh(sampler.pipe.scheduler)
    why = None
    if type(scheduler) is not DDIMScheduler:
        why = f"{type(scheduler).__name__}: scheduler='ddim' wanted"
    elif given.get("eta") != 1:
        why = f"eta={given.get('eta', 0)}: eta=1 wanted"
    elif given.get("timesteps") is not None:
        why = "timesteps=: num_inference_steps= wanted"
    if why is not None:
        raise ArgumentError(f"noise is carried from few steps to many for DDIM alone, with eta=1; given: {why}")
    count = given.get("num_inference_steps", default(sampler.pipe, "num_inference_steps"))
    scheduler.set_timesteps(count)
    times = [int(time) for time in scheduler.timesteps]
    roles = [draw.role for draw in sampler.layout]
    if roles != ["start", *["step"] * len(times)]:
        raise ArgumentError(
            f"{type(sampler.pipe).__name__} draws {', '.join(sorted(set(roles)))} in {len(roles)} draws for "
            f"{len(times)} steps: noise is carried where all begins with one draw of noise, and one follows per step"
        )
    trained = int(scheduler.config["num_train_timesteps"])
    stride = trained // count
    ends = [time - stride for time in times]
    if times[1:] != ends[:-1]:
        raise ArgumentError(
            f"num_inference_steps={count} gives steps of unequal length: a number that divides {trained} wanted"
        )
    final = scheduler.alphas_cumprod[ends[-1]] if ends[-1] >= 0 else scheduler.final_alpha_cumprod
    return [float(scheduler.alphas_cumprod[time].double()) for time in times] + [float(final)]
