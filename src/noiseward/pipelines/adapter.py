r"""The diffusers adapter: a pipeline's own code, run on given noise, with its graph.

A pipeline's call turns gradients off. Run within `differentiable()` and under a noise tape it becomes :math:`M(z, c)`,
with nothing copied and nothing known about the family: who scales the first latent, who packs latents, who passes what
to `scheduler.step`, all stays where it is. For the time of a run

* the denoiser's calls are taken off the tape, counted, and recomputed if asked (`memory.py` has the modes);
* `encode_prompt` runs off the tape and without a graph, once per prompt;
* what an encoder's posterior draws, of an image that was given, is marked as no noise of the sampler;
* schedulers and guiders are copies, because some keep the last run's graph alive;
* a model that is widened for a while, as autoencoders in float16 are, is widened as a copy (`upcast.py`);
* safety checker and watermark are set aside, because they leave the graph;

and afterwards the pipeline is as it was, except that its parameters stay frozen and its modules in eval mode. Samples
are mapped to what the pipeline shows where its tensors have another range (`ranges.py`).
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import ArgumentError, ModelError, NoisewardError, NoisewardWarning, choices, exhausted
from noiseward.noise.layout import Layout
from noiseward.noise.tape import is_recording, off, record
from noiseward.pipelines.blocks import blockwise, blockwise_decoder
from noiseward.pipelines.calls import held, parameters, produced, without_bars
from noiseward.pipelines.denoisers import denoisers
from noiseward.pipelines.encoded import Memo
from noiseward.pipelines.ranges import Range, fitted, is_image, levels
from noiseward.pipelines.refusals import check_modules
from noiseward.pipelines.rows import arguments, entries, opened, runs_alone
from noiseward.pipelines.schedulers import fresh, is_stateful, without_trees
from noiseward.pipelines.standins import instead, posterior_aside
from noiseward.pipelines.steps import announced, answering, last_state, remembered, repeating
from noiseward.pipelines.upcast import apart
from noiseward.samplers.differentiable import differentiable
from noiseward.samplers.entries import number_prompts
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.memory import MODES, choose_mode, free_memory, lower_mode
from noiseward.samplers.precision import is_half
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import is_guided, without_guide

__all__ = ["DiffusersSampler"]

MEMORY = (*MODES, "auto")
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
    "padding_mask_crop": "its crop is pasted back into a PIL image, outside the graph; crop image= and mask_image=",
}


@final
class DiffusersSampler(Sampler):
    """Any diffusers pipeline as a sampler.

    Arguments:
        pipe: the pipeline, modular or not; it is frozen and set to eval mode.
        memory: `fast` keeps all activations for the gradient; `balanced` recomputes the denoiser's, a call at a time;
            `low` does so block by block, and gives the decoder's gradient in strips; `auto` is the first of them that
            fits into what is free for the first batch (two samplings find out). The gradient is the same in all.
        denoiser: names of the models that are called at each step; default: `unet`, `transformer`, and every model that
            is called with a timestep.
        call: arguments of the pipeline's own call, under its own names: `num_inference_steps`, `guidance_scale`, `eta`,
            `height`, `negative_prompt`, ... Lists of negative prompts, embeddings or images have one entry per prompt
            or per row (`rows.py`).

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

    def __init__(
        self, pipe: Any, *, memory: str = "balanced", denoiser: str | Sequence[str] | None = None, **call: Any
    ) -> None:
        if memory not in MEMORY:
            raise ArgumentError(f"memory={memory!r} given: {choices(str(memory), MEMORY)}")
        self.pipe = pipe
        self._parameters = parameters(pipe)
        self._arguments = self._checked(call)
        self._produced = produced(pipe)
        modules = {name: part for name, part in pipe.components.items() if isinstance(part, Module)}
        check_modules(type(pipe).__name__, modules)
        for module in modules.values():
            module.requires_grad_(False).eval()
        self._named, self._denoisers = denoiser, denoisers(type(pipe).__name__, modules, denoiser)
        for name, part in _LEAVES_THE_GRAPH.items():
            if getattr(pipe, name, None) is not None:
                warnings.warn(
                    f"{type(pipe).__name__}'s {part} leaves the graph and is set aside while optimizing: "
                    f"{'check the results' if name == 'safety_checker' else 'apply it to the results'} yourself",
                    NoisewardWarning,
                    stacklevel=2,
                )
        self._prompts = Memo(self._denoisers)
        self._range: Range | None = None
        self._expected: list[str] | None = [""]
        counts = {name: entries(pipe, self._parameters, name, value) for name, value in self._arguments.items()}
        self.by_row = tuple(name for name, count in counts.items() if count > 1)
        run = self._row if runs_alone(self.by_row) else self._run
        self._inner = FunctionSampler(run, self._denoisers, name=type(pipe).__name__)
        self._take(memory)

    @staticmethod
    def parameters(pipe: Any) -> set[str]:
        """Names of the arguments the pipeline's own call takes."""
        return parameters(pipe)

    def called(self, **changes: Any) -> DiffusersSampler:
        """A sampler of the same pipeline that calls it with other arguments."""
        return DiffusersSampler(self.pipe, memory=self.memory, denoiser=self._named, **{**self._arguments, **changes})

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the pipeline's call that were given."""
        return dict(self._arguments)

    @property
    def layout(self) -> Layout:
        found = self._inner.layout
        self._ranged()
        return found

    @property
    def alone(self) -> str | None:
        return self._inner.alone

    def expect(self, prompt: Prompt) -> None:
        self._expected = [prompt] if isinstance(prompt, str) else list(prompt)[:1] if prompt else None
        self._inner.expect(prompt)

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
            step, rest = self._inner.measure_memory(prompt, modules)
            steps, available = self.layout.steps, free_memory(self.layout.device)
            self._take(choose_mode(step=batch * step, rest=batch * rest, steps=steps, available=available))
        return self._memory

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        rows = expand_prompts(prompt, noise.shape[0])
        if self.by_row:
            rows = list[str](number_prompts(rows, noise.shape[0]))
        if self._memory == "auto" and noise.requires_grad and torch.is_grad_enabled():
            self.settle(noise.shape[0], rows[0] if rows else None)
        sample = self._inner(noise, rows)
        if self._range is None and rows:
            self._expected = rows[:1]
        return self._ranged()(sample)

    def _take(self, memory: str) -> None:
        """Take gradients in a mode from now on."""
        self._memory = memory
        below = lower_mode(memory) if memory != "auto" else "low"
        self.lighter = f"memory='{below}'" if below else None
        inside = blockwise if memory == "low" else None
        self._inner = self._inner.with_memory(memory != "fast", inside=inside, lighter=self.lighter)

    def stock(self, prompt: Prompt = None, *, seed: int = 0) -> Tensor:
        """The pipeline's own sample of a seed, `(1, *X)`: without tape or graph, safety checker and watermark aside."""
        rows = expand_prompts(prompt, 1)
        return self._ranged()(self._tensor(self._plain(rows, seed, "pt")))

    def shown(self, prompt: Prompt = None, *, seed: int = 0) -> Tensor | None:
        """The same sample as the pipeline shows it, in levels from 0 to 255; None if it shows no images."""
        with contextlib.suppress(ModelError):
            return (
                levels(self._plain(expand_prompts(prompt, 1), seed, "pil"))
                if "output_type" in self._parameters
                else None
            )

    def _plain(self, prompt: list[str] | None, seed: int, output_type: str) -> Any:
        """What the pipeline gives for a seed, which is also that of what it draws without its generator."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad(), torch.random.fork_rng(), self._borrowed():
            torch.manual_seed(seed)
            return self._returned(1, prompt, generator=generator, output_type=output_type)

    def _row(self, prompt: list[str] | None) -> Tensor:
        """One row, alone: images of its own are not mixed up with those of others."""
        return self._run(1, prompt)

    def _run(self, batch: int, prompt: list[str] | None) -> Tensor:
        """The pipeline's own call for some rows; its noise comes from the tape around it."""
        given = getattr(self.pipe, "scheduler", None)
        first = self._range is None and is_recording()
        with self._borrowed(), contextlib.ExitStack() as stack:
            if not is_guided() and not first:
                return self._sampled(batch, prompt)
            last = stack.enter_context(remembered(self._denoisers))
            decode = functools.partial(self._decoded, scheduler=given, last=last, batch=batch, prompt=prompt)
            if is_guided():
                stack.enter_context(announced(self.pipe.scheduler, decode))
            state = stack.enter_context(last_state(getattr(self.pipe, "scheduler", None)))
            sample = self._sampled(batch, prompt)
            if first:
                self._compare(sample, functools.partial(decode, output_type="pil"), state)
            return sample

    def _decoded(
        self,
        clean: Tensor,
        *,
        scheduler: Any,
        last: dict[Module, Any],
        batch: int,
        prompt: list[str] | None,
        output_type: str = "pt",
    ) -> Any:
        """The samples of predicted ones in the pipeline's own space, by the pipeline's own way (see `steps.py`)."""
        with contextlib.ExitStack() as stack:
            for each in (off(), without_guide(), record(0, into=[]), repeating(self._denoisers, last)):
                stack.enter_context(each)
            stack.enter_context(instead(self.pipe, "scheduler", answering(fresh(scheduler), clean)))
            if output_type != "pt":
                return self._returned(batch, prompt, output_type=output_type)
            return (self._range or Range.UNIT)(self._sampled(batch, prompt))

    def _compare(self, sample: Tensor, decode: Callable[[Tensor], Any], state: list[Tensor]) -> None:
        """Find the range of samples from how the pipeline shows the state that this one came from."""
        if "output_type" not in self._parameters or not is_image(sample):
            self._range = Range.UNIT
        elif state:
            with torch.no_grad(), contextlib.suppress(ModelError):  # a call that is not cut short is run whole later
                self._range = fitted(type(self.pipe).__name__, sample, decode(state[0]), sure=False)

    def _ranged(self) -> Range:
        """The range of samples, found by two whole runs where it is not known yet."""
        if self._range is None:
            sample, shown = self._tensor(self._whole("pt")), None
            with contextlib.suppress(ModelError):  # a pipeline may have no images to show
                shown = self._whole("pil")
            self._range = fitted(type(self.pipe).__name__, sample, shown, sure=True) or Range.UNIT
        return self._range

    def _whole(self, output_type: str) -> Any:
        """What the pipeline gives for one row, the same at every call."""
        with torch.no_grad(), record(0, into=[]), self._borrowed():
            return self._returned(1, self._expected, output_type=output_type)

    def _sampled(self, batch: int, prompt: list[str] | None, *, generator: torch.Generator | None = None) -> Tensor:
        """The pipeline's own call, prepared as it is."""
        return self._tensor(self._returned(batch, prompt, generator=generator))

    def _tensor(self, sample: Any) -> Tensor:
        """The tensor in what a pipeline returned."""
        if isinstance(sample, list) and sample and all(isinstance(part, Tensor) for part in sample):
            sample = torch.stack(sample) if len({part.shape for part in sample}) == 1 else sample
        if not isinstance(sample, Tensor):
            raise ModelError(
                f"{type(self.pipe).__name__}: expected a tensor with output_type='pt', got {type(sample).__name__}; "
                "wrap its parts with FunctionSampler(fn)"
            )
        return sample

    def _returned(
        self,
        batch: int,
        prompt: list[str] | None,
        *,
        generator: torch.Generator | None = None,
        output_type: str = "pt",
    ) -> Any:
        """What the pipeline's own call returns first."""
        name = type(self.pipe).__name__
        given = arguments(self.pipe, self._parameters, self._arguments, batch, prompt)
        if generator is None and is_recording():  # so that the tape sees which draws the pipeline makes with it
            generator = torch.Generator(self.pipe._execution_device)
        ours = {"generator": generator, "output_type": output_type, "return_dict": False}
        ours = {name: value for name, value in ours.items() if name in self._parameters}
        try:
            with differentiable():
                result = self.pipe(**given, **ours, **self._produced)
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
        if isinstance(result, Mapping):  # an output of diffusers', where there is no return_dict
            result = tuple(result.values())
        return result[0] if isinstance(result, tuple) else result

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Prepare the pipeline for one run and leave it as it was."""
        with contextlib.ExitStack() as stack:
            for pipe in held(self.pipe):
                stack.enter_context(self._prepared(pipe))
            for name, part in self.pipe.components.items():
                if isinstance(part, Module) and part not in self._denoisers:
                    owners = [pipe for pipe in held(self.pipe) if getattr(pipe, name, None) is part]
                    stack.enter_context(apart(owners, name, functools.partial(self._encoding, name == "vae")))
            yield

    @contextlib.contextmanager
    def _prepared(self, pipe: Any) -> Iterator[None]:
        """A pipeline that shows no bars, with schedulers of its own and without what leaves the graph."""
        with without_bars(pipe), contextlib.ExitStack() as stack:
            for name, part in pipe.components.items():
                if is_stateful(part):
                    stack.enter_context(without_trees(part))
                    stack.enter_context(instead(pipe, name, fresh(part)))
            for name in _LEAVES_THE_GRAPH:
                if getattr(pipe, name, None) is not None:
                    stack.enter_context(instead(pipe, name, None))
            if callable(getattr(pipe, "encode_prompt", None)):
                stack.enter_context(instead(pipe, "encode_prompt", self._prompts.around(pipe)))
            yield

    @contextlib.contextmanager
    def _encoding(self, decodes: bool, module: Any) -> Iterator[None]:
        """A model whose posterior draws aside and which, as the decoder, takes as little memory as was asked for."""
        with contextlib.ExitStack() as stack:
            if decodes and self._memory == "low":
                stack.enter_context(blockwise_decoder(module))
            if callable(getattr(module, "encode", None)):
                stack.enter_context(instead(module, "encode", posterior_aside(module.encode)))
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
