r"""A pipeline's steps, announced: an override of `scheduler.step`, and one of the denoiser.

While a run is guided or watched (`samplers/steps.py`), the scheduler's own `step` is made through `announce`. What that
needs to know is asked of the scheduler itself: the prediction :math:`\hat x_0` is in what `step` returns, or follows
from the kind of prediction; signal and noise level are what `add_noise` makes of a one and of a zero.

To show a prediction to a reward it has to be decoded as the pipeline would. The pipeline does it: its call is run once
more, its denoiser repeating its last output and its scheduler returning the prediction at every step, so that what is
left is the pipeline's own way from its last state to images.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_map

from noiseward.errors import ModelError
from noiseward.pipelines.override import override
from noiseward.samplers.steps import announce, is_guided, show_state

__all__ = ["announce_steps", "freeze_state", "record_outputs", "repeat_outputs", "track_state"]

_PREDICTED = ("pred_original_sample", "denoised")  # names of the prediction in what schedulers return


@contextlib.contextmanager
def announce_steps(scheduler: Any, decode: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Announce every step of a scheduler in the body of a `with`.

    Arguments:
        scheduler: a run's own copy.
        decode: from predictions to samples.
    """
    own = scheduler.step
    signature = inspect.signature(own)

    def step(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        if not is_guided():
            return _watch_step(scheduler, own, call)
        values = call.arguments
        as_tuple = values.pop("return_dict", True) is False
        time, output, sample = values["timestep"], values["model_output"], values["sample"]
        signal, sigma = _levels(scheduler, time, sample)
        results: list[Any] = []

        def advance(output: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
            values.update(model_output=output, sample=noisy, return_dict=True)
            results.append(own(*call.args, **call.kwargs))
            return results[0].prev_sample, _prediction(scheduler, results[0], output, noisy, signal, sigma)

        after = announce(
            advance, output, sample, of=len(scheduler.timesteps), time=float(torch.as_tensor(time).flatten()[0]),
            signal=signal, sigma=sigma, decode=decode,
            reorder=lambda rows: _reorder(vars(scheduler), rows, sample.shape),
        )  # fmt: skip
        others = results[0].to_tuple()[1:]  # a guided run cuts the graph at every step
        others = [part.detach() if isinstance(part, Tensor) else part for part in others]
        if as_tuple:
            return (after, *others)
        results[0].prev_sample = after
        return results[0]

    with override(scheduler, "step", _bind(scheduler, own, step)):
        yield


@contextlib.contextmanager
def record_outputs(modules: Sequence[Module]) -> Iterator[dict[Module, Any]]:
    """Record the last output of each module in the body of a `with`, without its graph."""
    last: dict[Module, Any] = {}

    def record(module: Module, _: Any, result: Any) -> None:
        last[module] = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, result)

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(record).remove)
        yield last


@contextlib.contextmanager
def repeat_outputs(modules: Sequence[Module], last: dict[Module, Any]) -> Iterator[None]:
    """Let modules return their last output in the body of a `with`; one that was never called, another one's."""
    with contextlib.ExitStack() as stack:
        for module in modules:
            output = last.get(module, next(iter(last.values()), None))
            repeat = functools.wraps(module.forward)(lambda *args, output=output, **kwargs: output)
            stack.enter_context(override(module, "forward", repeat))
        yield


@contextlib.contextmanager
def track_state(scheduler: Any) -> Iterator[list[Tensor]]:
    """A list that holds the state that a scheduler's last step led to; empty before the first."""
    last: list[Tensor] = []
    own = getattr(scheduler, "step", None)
    if not callable(own):
        yield last
        return

    def step(*args: Any, **kwargs: Any) -> Any:
        result: Any = own(*args, **kwargs)
        state = result[0] if isinstance(result, tuple) else getattr(result, "prev_sample", None)
        if isinstance(state, Tensor):
            last[:] = [state.detach().clone()]
        return result

    with override(scheduler, "step", _bind(scheduler, own, step)):
        yield last


def freeze_state(scheduler: Any, state: Tensor) -> Any:
    """Let every step of a scheduler lead to one state; returns the scheduler."""
    own = scheduler.step

    @functools.wraps(own)
    def step(*args: Any, **kwargs: Any) -> Any:
        if inspect.signature(own).bind(*args, **kwargs).arguments.get("return_dict", True) is False:
            return (state, state)
        return _State(state)

    scheduler.step = step
    return scheduler


class _State:
    """What a step returns, under all names that schedulers have for it."""

    def __init__(self, state: Tensor) -> None:
        self.prev_sample = self.pred_original_sample = self.denoised = state


def _bind(scheduler: Any, own: Callable[..., Any], step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that replaces a scheduler's own, with its signature, which pipelines ask for.

    It is a method: pipelines with several states copy their scheduler for each, and a copy has its own step.
    """
    if not inspect.ismethod(own):
        return functools.wraps(own)(step)

    @functools.wraps(own.__func__)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs) if self is scheduler else own.__func__(self, *args, **kwargs)

    return types.MethodType(method, scheduler)


def _watch_step(scheduler: Any, own: Callable[..., Any], call: inspect.BoundArguments) -> Any:
    """Make a step without guidance, and show what it predicts; where a scheduler does not say, nothing."""
    values, clean = call.arguments, None
    levels = None
    with contextlib.suppress(Exception):  # no run fails because it is watched
        levels = _levels(scheduler, values["timestep"], values["sample"])  # what it says changes with its step
    output, noisy, as_tuple = values.get("model_output"), values.get("sample"), values.get("return_dict", True) is False
    if as_tuple:
        values["return_dict"] = True  # what a tuple holds has no names
    result = own(*call.args, **call.kwargs)
    if levels is not None and isinstance(output, Tensor) and isinstance(noisy, Tensor):
        with torch.no_grad(), contextlib.suppress(Exception):
            clean = _prediction(scheduler, result, output, noisy, *levels)
    show_state(clean)
    return result.to_tuple() if as_tuple and not isinstance(result, tuple) else result


def _levels(scheduler: Any, time: Any, like: Tensor) -> tuple[float, float]:
    """Signal and noise level of a state before a step."""
    at = torch.as_tensor(time).flatten()[:1]
    one, zero = (torch.tensor([value], dtype=like.dtype, device=at.device) for value in (1.0, 0.0))
    if callable(getattr(scheduler, "add_noise", None)):
        return float(scheduler.add_noise(one, zero, at)), float(scheduler.add_noise(zero, one, at))
    if callable(getattr(scheduler, "scale_noise", None)):
        return float(scheduler.scale_noise(one, at, zero)), float(scheduler.scale_noise(zero, at, one))
    raise ModelError(
        f"{type(scheduler).__name__} does not say how noisy its states are, and cannot be guided: take another "
        "scheduler, or search"
    )


def _prediction(scheduler: Any, result: Any, output: Tensor, noisy: Tensor, signal: float, sigma: float) -> Tensor:
    """The sample that a scheduler predicts."""
    for name in _PREDICTED:
        predicted = getattr(result, name, None)
        if isinstance(predicted, Tensor):
            return predicted
    kind = scheduler.config.get("prediction_type", "flow_prediction")
    output = output[:, : noisy.shape[1]] if output.shape != noisy.shape else output  # without a learned variance
    if kind == "epsilon":
        return (noisy - sigma * output) / signal
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return signal * noisy - sigma * output
    if kind == "flow_prediction":
        return noisy - sigma * output
    raise ModelError(f"{type(scheduler).__name__} predicts '{kind}', and cannot be guided: take another scheduler")


def _reorder(attributes: dict[str, Any], rows: Tensor, shape: torch.Size) -> None:
    """Reorder the rows of earlier states that a scheduler keeps, as multistep ones do."""

    def reorder(value: Any) -> Any:
        if isinstance(value, Tensor) and value.shape == shape:
            return value[rows]
        return [reorder(part) for part in value] if isinstance(value, list) else value

    for name, value in list(attributes.items()):
        if isinstance(value, Tensor | list):
            attributes[name] = reorder(value)
