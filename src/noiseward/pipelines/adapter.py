r"""The diffusers adapter: a pipeline's own code, run on given noise, with its graph.

`type(pipe).__call__` is decorated with `torch.no_grad()`; its `__wrapped__` is the same code without. Run under a noise
tape it becomes :math:`M(z, c)`, with nothing copied and nothing known about the family: who scales the first latent,
who packs latents, who passes what to `scheduler.step`, all stays where it is. For the time of a run

* the denoiser's calls are taken off the tape, counted, and recomputed if asked (`memory.py` has the modes);
* `encode_prompt` runs off the tape and without a graph, once per prompt;
* what an encoder's posterior draws, of a picture that was given, is marked as no noise of the sampler;
* the scheduler is a copy, because multistep schedulers keep the last run's graph alive;
* safety checker and watermark are set aside, because they leave the graph;

and afterwards the pipeline is as it was, except that its parameters stay frozen and its modules in eval mode.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError, ModelError, NoisewardError, NoisewardWarning, choices
from noiseward.memory import MODES, exhausted, fitting, free, lower
from noiseward.moments import heard, unheard
from noiseward.noise import Layout
from noiseward.pipelines.blocks import blockwise, blockwise_decoder
from noiseward.pipelines.refusals import check_modules
from noiseward.pipelines.rows import arguments, opened
from noiseward.pipelines.schedulers import fresh, without_trees
from noiseward.pipelines.steps import announced, answering, remembered, repeating
from noiseward.precision import is_half
from noiseward.recompute import NFE
from noiseward.sample import FunctionSampler, Prompt, Sampler, prompts
from noiseward.tape import aside, off, record

__all__ = ["DiffusersSampler"]

MEMORY = (*MODES, "auto")
_DENOISERS = ("unet", "transformer")
_BESIDE = ("transformer_2", "controlnet")  # called at each step as well
_LEAVES_THE_GRAPH = {"safety_checker": "safety checker", "watermark": "watermark"}
_REFUSED = {
    "generator": "use seed=: the noise is drawn outside the pipeline",
    "latents": "pass noise to the sampler instead",
    "prompt": "give the prompt to the call: sampler(noise, prompt)",
    "output_type": "samples are always tensors; solution.images are pictures",
    "return_dict": "samples are always tensors; solution.images are pictures",
    "num_images_per_prompt": "use batch=: every image is a row of its own",
    "num_videos_per_prompt": "use batch=: every video is a row of its own",
    "num_waveforms_per_prompt": "use batch=: every waveform is a row of its own",
    "batch_size": "use batch=: every image is a row of its own",
}


@final
class DiffusersSampler(Sampler):
    """Any diffusers pipeline as a sampler.

    Arguments:
        pipe: the pipeline; it is frozen and set to eval mode.
        memory: `fast` keeps all activations for the gradient; `balanced` recomputes the denoiser's, a call at a time;
            `low` does so block by block, and gives the decoder's gradient in strips; `auto` is the first of them that
            fits into what is free for the first batch (two samplings find out). The gradient is the same in all.
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
            raise ArgumentError(f"memory={memory!r} given: {choices(str(memory), MEMORY)}")
        self.pipe = pipe
        self._call, self._parameters = _unwrapped(pipe)
        self._arguments = self._checked(call)
        modules = {name: part for name, part in pipe.components.items() if isinstance(part, Module)}
        check_modules(type(pipe).__name__, modules)
        for module in modules.values():
            module.requires_grad_(False).eval()
        denoisers = [modules[name] for name in _DENOISERS if name in modules]
        if not denoisers:
            raise ModelError(
                f"{type(pipe).__name__} has no denoiser among {', '.join(sorted(modules))}: one of "
                f"{' or '.join(_DENOISERS)} is wanted; drive it with FunctionSampler(fn, denoiser=...)"
            )
        for name, part in _LEAVES_THE_GRAPH.items():
            if getattr(pipe, name, None) is not None:
                warnings.warn(
                    f"{type(pipe).__name__}'s {part} leaves the graph and is set aside while optimizing: "
                    f"{'check the results' if name == 'safety_checker' else 'apply it to the results'} yourself",
                    NoisewardWarning,
                    stacklevel=2,
                )
        self._prompts = _Memo()
        denoisers += [modules[name] for name in _BESIDE if name in modules]
        self._denoisers = denoisers
        self._inner = FunctionSampler(self._run, denoisers, name=type(pipe).__name__)
        self._take(memory)

    @staticmethod
    def parameters(pipe: Any) -> set[str]:
        """Names of the arguments the pipeline's own call takes."""
        return _unwrapped(pipe)[1]

    def called(self, **changes: Any) -> DiffusersSampler:
        """A sampler of the same pipeline that calls it with other arguments."""
        return DiffusersSampler(self.pipe, memory=self.memory, **{**self._arguments, **changes})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline's call that were given."""
        return dict(self._arguments)

    @property
    def layout(self) -> Layout:
        return self._inner.layout

    @property
    def alone(self) -> str | None:
        return self._inner.alone

    def expect(self, prompt: Prompt) -> None:
        self._inner.expect(prompt)

    @property
    def nfe(self) -> NFE:
        return self._inner.nfe

    @property
    def half(self) -> bool:
        vae = self.pipe.components.get("vae")
        return self._inner.half or (isinstance(vae, Module) and any(map(is_half, vae.parameters())))

    @property
    def memory(self) -> str:
        """The mode that gradients are taken in; `auto` until that is settled."""
        return self._memory

    def settle(self, batch: int, prompt: Prompt = None) -> str:
        """Choose the mode for so many rows, where that was left to `auto`; gives the mode."""
        if self._memory == "auto":
            modules = [part for part in self.pipe.components.values() if isinstance(part, Module)]
            step, rest = self._inner.weighed(prompt, modules)
            steps, available = self.layout.steps, free(self.layout.device)
            self._take(fitting(step=batch * step, rest=batch * rest, steps=steps, available=available))
        return self._memory

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        if self._memory == "auto" and noise.requires_grad and torch.is_grad_enabled():
            named = prompts(prompt, noise.shape[0])
            self.settle(noise.shape[0], named[0] if named else None)
        return self._inner(noise, prompt)

    def _take(self, memory: str) -> None:
        """Take gradients in a mode from now on."""
        self._memory = memory
        below = lower(memory) if memory != "auto" else "low"
        self.lighter = f"memory='{below}'" if below else None
        inside = blockwise if memory == "low" else None
        self._inner = self._inner.retaining(memory != "fast", inside=inside, lighter=self.lighter)

    def stock(self, prompt: Prompt = None, *, seed: int = 0) -> Tensor:
        """The pipeline's own sample of a seed, `(1, *X)`: without tape or graph, safety checker and watermark aside."""
        given = arguments(self.pipe, self._parameters, self._arguments, 1, prompts(prompt, 1))
        ours = {"generator": torch.Generator().manual_seed(seed), "output_type": "pt", "return_dict": False}
        with self._borrowed():
            return self.pipe(**given, **{k: v for k, v in ours.items() if k in self._parameters})[0]

    def _run(self, batch: int, prompt: list[str] | None) -> Tensor:
        """The pipeline's own call for some rows; its noise comes from the tape around it."""
        given = self.pipe.scheduler
        with self._borrowed(), contextlib.ExitStack() as stack:
            if heard():
                last = stack.enter_context(remembered(self._denoisers))
                decode = functools.partial(self._decoded, scheduler=given, last=last, batch=batch, prompt=prompt)
                stack.enter_context(announced(self.pipe.scheduler, decode))
            return self._sampled(batch, prompt)

    def _decoded(
        self, clean: Tensor, *, scheduler: Any, last: dict[Module, Any], batch: int, prompt: list[str] | None
    ) -> Tensor:
        """The samples of predicted ones in the pipeline's own space, by the pipeline's own way (see `steps.py`)."""
        with contextlib.ExitStack() as stack:
            for each in (off(), unheard(), record(0, into=[]), repeating(self._denoisers, last)):
                stack.enter_context(each)
            stack.enter_context(_instead(self.pipe, "scheduler", answering(fresh(scheduler), clean)))
            return self._sampled(batch, prompt)

    def _sampled(self, batch: int, prompt: list[str] | None) -> Tensor:
        """The pipeline's own call, prepared as it is."""
        name = type(self.pipe).__name__
        given = arguments(self.pipe, self._parameters, self._arguments, batch, prompt)
        ours = {"generator": None, "output_type": "pt", "return_dict": False}
        try:
            sample = self._call(self.pipe, **given, **{k: v for k, v in ours.items() if k in self._parameters})
        except NoisewardError:
            raise
        except Exception as error:  # whatever a pipeline raises when it is asked for what it cannot do
            if exhausted(error):
                raise
            reason = " ".join(str(error).split())[:300]
            refused = isinstance(error, ValueError | TypeError)  # how pipelines refuse arguments
            raise ModelError(
                f"{name} {'refuses this call' if refused else f'fails with {type(error).__name__}'}: {reason}"
            ) from error
        sample = sample[0] if isinstance(sample, tuple) else sample
        if not isinstance(sample, Tensor):
            raise ModelError(
                f"{name} returns {type(sample).__name__}, no tensor: wrap its parts with FunctionSampler(fn)"
            )
        return sample

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Prepare the pipeline for one run and leave it as it was."""
        pipe, vae = self.pipe, self.pipe.components.get("vae")
        bar = dict(vars(pipe).get("_progress_bar_config", {}))
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, pipe, "_progress_bar_config", bar)
            pipe.set_progress_bar_config(**{**bar, "disable": True})
            stack.enter_context(without_trees(pipe.scheduler))
            stack.enter_context(_instead(pipe, "scheduler", fresh(pipe.scheduler)))
            for name in _LEAVES_THE_GRAPH:
                if getattr(pipe, name, None) is not None:
                    stack.enter_context(_instead(pipe, name, None))
            if callable(getattr(pipe, "encode_prompt", None)):
                stack.enter_context(_instead(pipe, "encode_prompt", self._prompts.around(pipe.encode_prompt)))
            if vae is not None and self._memory == "low":
                stack.enter_context(blockwise_decoder(vae))
            if vae is not None and callable(getattr(vae, "encode", None)):
                stack.enter_context(_instead(vae, "encode", _posterior_aside(vae.encode)))
            yield

    def _checked(self, call: dict[str, Any]) -> dict[str, Any]:
        for name in call:
            if name in _REFUSED:
                raise ArgumentError(f"{name}= is not taken by {type(self.pipe).__name__} here: {_REFUSED[name]}")
            if name not in self._parameters:
                raise ArgumentError(
                    f"{type(self.pipe).__name__} has no argument '{name}': {choices(name, sorted(self._parameters))}"
                )
        return {name: opened(name, value) for name, value in call.items()}


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


@contextlib.contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` for the body of a `with`."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own or isinstance(before, Module):
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def _posterior_aside(encode: Callable[..., Any]) -> Callable[..., Any]:
    """A VAE's `encode`, whose posterior draws aside: it blurs the given picture, and is no noise of the sampler."""

    def encoded(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        posterior: Any = result[0] if isinstance(result, tuple) else getattr(result, "latent_dist", None)
        draw = getattr(posterior, "sample", None)
        if callable(draw):

            def drawn(*args: Any, **kwargs: Any) -> Any:
                with aside():
                    return draw(*args, **kwargs)

            posterior.sample = drawn
        return result

    return encoded


class _Memo:
    """Remembers what `encode_prompt` returned: prompts do not change while the noise does."""

    def __init__(self, size: int = 64) -> None:
        self._size, self._known = size, OrderedDict[Any, Any]()

    def around(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        """`encode`, answered from memory where possible; without a graph."""

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
                with torch.no_grad():
                    return encode(*args, **kwargs)  # embeddings: there is nothing to spare
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
