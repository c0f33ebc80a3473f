r"""The diffusers adapter: a pipeline's own code, run on given noise, with its graph.

`type(pipe).__call__` is decorated with `torch.no_grad()`; its `__wrapped__` is the same code without. Run under a noise
tape it becomes :math:`M(z, c)`, with nothing copied and nothing known about the family: who scales the first latent,
who packs latents, who passes what to `scheduler.step`, all stays where it is. For the time of a run

* the denoiser's calls are taken off the tape, counted, and recomputed if asked;
* `encode_prompt` runs off the tape and without a graph, once per prompt;
* the scheduler is a fresh one, because multistep schedulers keep the last run's graph alive;
* the safety checker is set aside, because it leaves the graph;

and afterwards the pipeline is as it was, except that its parameters stay frozen and its modules in eval mode.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError, ModelError, NoisewardError, NoisewardWarning, choices
from noiseward.noise import Layout
from noiseward.recompute import NFE
from noiseward.sample import FunctionSampler, Prompt, Sampler

__all__ = ["DiffusersSampler"]

MEMORY = ("fast", "balanced")  # keep all activations; recompute the denoiser's
_DENOISERS = ("unet", "transformer")
_REFUSED = {
    "generator": "use seed=: the noise is drawn outside the pipeline",
    "latents": "pass noise to the sampler instead",
    "prompt": "give the prompt to the call: sampler(noise, prompt)",
    "output_type": "samples are always tensors; solution.images are pictures",
    "return_dict": "samples are always tensors; solution.images are pictures",
    "num_images_per_prompt": "use batch=: every image is a row of its own",
}


@final
class DiffusersSampler(Sampler):
    """Any diffusers pipeline as a sampler.

    Arguments:
        pipe: the pipeline; it is frozen and set to eval mode.
        memory: `fast` keeps all activations for the gradient, `balanced` recomputes the denoiser's.
        call: arguments of the pipeline's own call, under its own names: `num_inference_steps`, `guidance_scale`, `eta`,
            `height`, `negative_prompt`, ...

    Raises:
        ModelError: a pipeline that cannot be driven.
        ArgumentError: an argument the pipeline does not know, or one that has another place here.

    Example:
        >>> from noiseward import stickers
        >>> from noiseward.pipelines import load
        >>> sampler = DiffusersSampler(load(stickers.path()), num_inference_steps=4, eta=1.0)
        >>> sampler(sampler.init(2, seed=7), "a duck").shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(self, pipe: Any, *, memory: str = "balanced", **call: Any) -> None:
        if memory not in MEMORY:
            raise ArgumentError(f"memory={memory!r} given: {choices(str(memory), ('fast', 'balanced'))}")
        self.pipe = pipe
        self._call, self._parameters = _unwrapped(pipe)
        self._arguments = self._checked(call)
        modules = {name: part for name, part in pipe.components.items() if isinstance(part, Module)}
        for module in modules.values():
            module.requires_grad_(False).eval()
        denoiser = next((modules[name] for name in _DENOISERS if name in modules), None)
        if denoiser is None:
            raise ModelError(
                f"{type(pipe).__name__} has no denoiser among {', '.join(sorted(modules))}: one of "
                f"{' or '.join(_DENOISERS)} is wanted; drive it with FunctionSampler(fn, denoiser=...)"
            )
        if pipe.components.get("safety_checker") is not None:
            warnings.warn(
                f"{type(pipe).__name__}'s safety checker leaves the graph and is set aside while optimizing: "
                "check the results yourself",
                NoisewardWarning,
                stacklevel=2,
            )
        self._prompts = _Memo()
        self._inner = FunctionSampler(self._run, denoiser, recompute=memory == "balanced")

    @staticmethod
    def parameters(pipe: Any) -> set[str]:
        """Names of the arguments the pipeline's own call takes."""
        return _unwrapped(pipe)[1]

    @property
    def layout(self) -> Layout:
        return self._inner.layout

    @property
    def nfe(self) -> NFE:
        return self._inner.nfe

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        return self._inner(noise, prompt)

    def _run(self, batch: int, prompt: list[str] | None) -> Tensor:
        """The pipeline's own call for some rows; its noise comes from the tape around it."""
        arguments = {name: _per_row(name, value, batch) for name, value in self._arguments.items()}
        if "prompt" in self._parameters and not _embedded(arguments):
            arguments["prompt"] = prompt or [""] * batch
        elif "batch_size" in self._parameters:
            arguments["batch_size"] = batch
        with self._borrowed():
            try:
                return self._call(self.pipe, **arguments, generator=None, output_type="pt", return_dict=False)[0]
            except (ValueError, TypeError) as error:  # how pipelines refuse arguments
                if isinstance(error, NoisewardError):
                    raise
                reason = " ".join(str(error).split())
                raise ModelError(f"{type(self.pipe).__name__} refuses this call: {reason}") from error

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Prepare the pipeline for one run and leave it as it was."""
        pipe = self.pipe
        scheduler, checker = pipe.scheduler, pipe.components.get("safety_checker")
        bar = dict(vars(pipe).get("_progress_bar_config", {}))
        encode = getattr(type(pipe), "encode_prompt", None)
        pipe.scheduler = type(scheduler).from_config(scheduler.config)
        pipe.set_progress_bar_config(**{**bar, "disable": True})
        if checker is not None:
            pipe.safety_checker = None
        if encode is not None:
            pipe.encode_prompt = self._prompts.around(pipe.encode_prompt)
        try:
            yield
        finally:
            pipe.scheduler = scheduler
            pipe._progress_bar_config = bar
            if checker is not None:
                pipe.safety_checker = checker
            if encode is not None:
                del pipe.encode_prompt

    def _checked(self, call: dict[str, Any]) -> dict[str, Any]:
        for name in call:
            if name in _REFUSED:
                raise ArgumentError(f"{name}= is not taken by {type(self.pipe).__name__} here: {_REFUSED[name]}")
            if name not in self._parameters:
                raise ArgumentError(
                    f"{type(self.pipe).__name__} has no argument '{name}': {choices(name, sorted(self._parameters))}"
                )
        return call


def _unwrapped(pipe: Any) -> tuple[Callable[..., Any], set[str]]:
    """The pipeline's call without its `no_grad`, and the names of its parameters."""
    from diffusers import DiffusionPipeline

    if not isinstance(pipe, DiffusionPipeline):
        raise ModelError(
            f"{type(pipe).__name__} is no diffusers pipeline: wrap other samplers with FunctionSampler(fn)"
        )
    call = inspect.unwrap(type(pipe).__call__)
    if call is type(pipe).__call__:
        raise ModelError(f"{type(pipe).__name__}.__call__ cannot be run without its no_grad: it has no __wrapped__")
    return call, set(inspect.signature(call).parameters) - {"self"}


def _per_row(name: str, value: Any, batch: int) -> Any:
    """Text arguments such as `negative_prompt` and `prompt_2`, once per row, as the prompts are."""
    return [value] * batch if "prompt" in name and isinstance(value, str) else value


def _embedded(arguments: dict[str, Any]) -> bool:
    return arguments.get("prompt_embeds") is not None


class _Memo:
    """Remembers what `encode_prompt` returned: prompts do not change while the noise does."""

    def __init__(self, size: int = 64) -> None:
        self._size, self._known = size, OrderedDict[Any, Any]()

    def around(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """`encode`, answered from memory where possible; without a graph."""

        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = _key((args, sorted(kwargs.items())))
            if key not in self._known:
                with torch.no_grad():
                    self._known[key] = encode(*args, **kwargs), (args, kwargs)  # kept, so that no id is used again
                if len(self._known) > self._size:
                    self._known.popitem(last=False)
            return self._known[key][0]

        return remembered


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument: text and numbers by value, everything else by identity."""
    if isinstance(value, list | tuple):
        return tuple(_key(part) for part in value)
    if value is None or isinstance(value, str | int | float | bool | torch.device | torch.dtype):
        return (type(value).__name__, value)
    return ("object", id(value))
