r"""A pipeline's steps, announced: a proxy around `scheduler.step`, and one around the denoiser.

While somebody guides a run (`moments.py`), the scheduler's own `step` is made through `announce`. What that needs to
know is asked of the scheduler itself: the prediction :math:`\hat x_0` is in what `step` returns, or follows from the
kind of prediction; signal and noise level are what `add_noise` makes of a one and of a zero.

To show a prediction to a reward it has to be decoded as the pipeline would. The pipeline does it: its call is run once
more, its denoiser repeating what it said last and its scheduler answering every step with the prediction, so that what
is left is the pipeline's own way from its last state to pictures.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map

from noiseward.errors import ModelError
from noiseward.samplers.steps import announce

__all__ = ["announced", "answering", "last_state", "remembered", "repeating"]

_PREDICTED = ("pred_original_sample", "denoised")  # how schedulers call the prediction in what they return


@contextlib.contextmanager
def announced(scheduler: Any, decode: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """For the body of a `with`, every step of a scheduler is announced.

    Arguments:
        scheduler: its own copy of a run.
        decode: from predictions to samples.
    """
    own = scheduler.step
    signature = inspect.signature(own)

    @functools.wraps(own)  # pipelines ask which arguments it takes
    def step(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        given = call.arguments
        plain = given.pop("return_dict", True) is False
        time, output, sample = given["timestep"], given["model_output"], given["sample"]
        signal, sigma = _levels(scheduler, time, sample)
        returned: list[Any] = []

        def go(output: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
            given.update(model_output=output, sample=noisy, return_dict=True)
            returned.append(own(*call.args, **call.kwargs))
            return returned[0].prev_sample, _predicted(scheduler, returned[0], output, noisy, signal, sigma)

        after = announce(
            go, output, sample, of=len(scheduler.timesteps), time=float(torch.as_tensor(time).flatten()[0]),
            signal=signal, sigma=sigma, decode=decode,
            reorder=lambda rows: _reorder(vars(scheduler), rows, sample.shape),
        )  # fmt: skip
        others = [part.detach() if isinstance(part, Tensor) else part for part in returned[0].to_tuple()[1:]]
        if plain:
            return (after, *others)
        returned[0].prev_sample = after
        return returned[0]

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


@contextlib.contextmanager
def remembered(modules: Sequence[Module]) -> Iterator[dict[Module, Any]]:
    """For the body of a `with`, what each module returned last, without its graph."""
    last: dict[Module, Any] = {}

    def keep(module: Module, _: Any, result: Any) -> None:
        last[module] = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, result)

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        yield last


@contextlib.contextmanager
def repeating(modules: Sequence[Module], last: dict[Module, Any]) -> Iterator[None]:
    """For the body of a `with`, modules return what they returned last; one never called, what another did."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            said = last.get(module, next(iter(last.values()), None))
            before = vars(module).get("forward")
            module.forward = functools.wraps(module.forward)(lambda *args, said=said, **kwargs: said)
            if before is None:
                stack.callback(delattr, module, "forward")
            else:
                stack.callback(setattr, module, "forward", before)
        yield


@contextlib.contextmanager
def last_state(scheduler: Any) -> Iterator[list[Tensor]]:
    """For the body of a `with`, a list that holds the state a scheduler's last step led to; empty before the first."""
    found: list[Tensor] = []
    own = getattr(scheduler, "step", None)
    if not callable(own):
        yield found
        return

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        result: Any = own(*args, **kwargs)
        state = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        if isinstance(state, Tensor):
            found[:] = [state.detach().clone()]
        return result

    with _standing_in(scheduler, step):
        yield found


@contextlib.contextmanager
def _standing_in(scheduler: Any, step: Callable[..., Any]) -> Iterator[None]:
    before = vars(scheduler).get("step")
    scheduler.step = step
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


def answering(scheduler: Any, state: Tensor) -> Any:
    """A scheduler of which every step leads to one state."""
    own = scheduler.step

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        if inspect.signature(own).bind(*args, **kwargs).arguments.get("return_dict", True) is False:
            return (state, state)
        return _State(state)

    scheduler.step = step
    return scheduler


class _State:
    """What a step returns, whatever it is called."""

    def __init__(self, state: Tensor) -> None:
        self.prev_sample = self.pred_original_sample = self.denoised = state


def _levels(scheduler: Any, time: Any, like: Tensor) -> tuple[float, float]:
    """Signal and noise level of a state about to make a step."""
    at = torch.as_tensor(time).flatten()[:1]
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    one, none = one.to(at.device, like.dtype), none.to(at.device, like.dtype)
    if callable(getattr(scheduler, "add_noise", None)):
        return float(scheduler.add_noise(one, none, at)), float(scheduler.add_noise(none, one, at))
    if callable(getattr(scheduler, "scale_noise", None)):
        return float(scheduler.scale_noise(one, at, none)), float(scheduler.scale_noise(none, at, one))
    raise ModelError(
        f"{type(scheduler).__name__} does not say how noisy its states are, and cannot be guided: take another "
        "scheduler, or search"
    )


def _predicted(scheduler: Any, returned: Any, output: Tensor, noisy: Tensor, signal: float, sigma: float) -> Tensor:
    """The sample a scheduler heads for."""
    for name in _PREDICTED:
        found = getattr(returned, name, None)
        if isinstance(found, Tensor):
            return found
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    output = output[:, : noisy.shape[1]] if output.shape != noisy.shape else output  # beside a learned variance
    if kind == "epsilon":
        return (noisy - sigma * output) / signal
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return signal * noisy - sigma * output
    if kind == "flow_prediction":
        return noisy - sigma * output
    raise ModelError(f"{type(scheduler).__name__} predicts '{kind}', and cannot be guided: take another scheduler")


def _reorder(kept: dict[str, Any], rows: Tensor, shape: torch.Size) -> None:
    """Put what a scheduler keeps of earlier states, as multistep ones do, into a new order."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == shape:
            return value[rows]
        return [moved(part) for part in value] if isinstance(value, list) else value

    for name, value in list(kept.items()):
        if isinstance(value, Tensor | list):
            kept[name] = moved(value)
