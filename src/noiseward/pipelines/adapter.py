r"""The diffusers adapter: a pipeline's own code, run on given noise, with its graph.

A pipeline's call turns gradients off. Run within `differentiable()` and under a noise tape it becomes :math:`M(z, c)`,
with nothing copied and nothing known about the family: who scales the first latent, who packs latents, who passes what
to `scheduler.step`, all stays where it is. During a run

* the denoiser's calls are taken off the tape, counted, and recomputed if asked (`memory.py` has the modes);
* `encode_prompt` runs off the tape and without a graph, once per prompt (`prompt_cache.py`);
* what the posterior of an input image draws is not recorded as noise of the sampler (`autoencoders.py`);
* schedulers and guiders are copies, because some keep the last run's graph alive;
* a model that is upcast for a while, as autoencoders in float16 are, is upcast as a copy (`autoencoders.py`);
* safety checker and watermark are removed, because they leave the graph;

and afterwards the pipeline is as it was, except that its parameters stay frozen and its modules in eval mode. Samples
are mapped to what the pipeline shows where its tensors have another range (`ranges.py`).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Module

from noiseward.errors import (
    ArgumentError,
    GradientError,
    ModelError,
    NoisewardError,
    choices,
    is_out_of_memory,
)
from noiseward.noise.layout import Layout
from noiseward.noise.tape import is_recording, off, record
from noiseward.pipelines.arguments import build_arguments, check_call, count_entries, describe_misfits, runs_alone
from noiseward.pipelines.arrays import is_array_maker, keep_tensors, lead_with_channels
from noiseward.pipelines.autoencoders import exclude_posterior, upcast_copies
from noiseward.pipelines.blocks import recompute_blocks
from noiseward.pipelines.calls import describe_failure, hide_bars, list_parameters, list_pipelines, select_output
from noiseward.pipelines.checkers import explain_guardrail, list_removable, warn_of_removal
from noiseward.pipelines.decoders import open_decoder
from noiseward.pipelines.denoisers import find_denoisers
from noiseward.pipelines.in_place import (
    add_experts_out_of_place,
    copy_inputs,
    list_out_of_place,
    writes_into_latents,
)
from noiseward.pipelines.offload import OffloadedWeights
from noiseward.pipelines.override import override
from noiseward.pipelines.prompt_cache import PromptCache
from noiseward.pipelines.ranges import Range, find_range, is_image, to_levels
from noiseward.pipelines.refusals import allow_gradients, check_modules
from noiseward.pipelines.schedulers import copy_scheduler, is_stateful, replace_trees
from noiseward.pipelines.steps import announce_steps, freeze_state, record_outputs, repeat_outputs, track_state
from noiseward.samplers.differentiable import differentiable
from noiseward.samplers.entries import number_prompts
from noiseward.samplers.function import FunctionSampler
from noiseward.samplers.in_use import occupy
from noiseward.samplers.memory import MODES, choose_mode, free_memory, lower_mode
from noiseward.samplers.precision import is_half
from noiseward.samplers.sampler import Prompt, Sampler, expand_prompts
from noiseward.samplers.steps import is_guided, is_watched, unobserved

__all__ = ["DiffusersSampler"]

MEMORY = (*MODES, "auto")


@final
class DiffusersSampler(Sampler):
    """Any diffusers pipeline as a sampler.

    Arguments:
        pipe: the pipeline, modular or not; it is frozen and set to eval mode.
        memory: `fast` keeps all activations for the gradient; `balanced` recomputes the denoiser's, a call at a time;
            `low` does so block by block, and computes the decoder's gradient in strips; `auto` is the first of them
            that fits into free memory for the first batch (found out by two samplings). The gradient is the same in
            all.
        decoder: another decoder for gradients alone, see `decoders.py`: `tiny`, `half`, a folder or hub id of an
            `AutoencoderTiny`, or a module. What is shown and scored comes from the pipeline's own.
        denoiser: names of the models that are called at each step; default: `unet`, `transformer`, and every model that
            is called with a timestep.
        call: arguments of the pipeline's own call, under its own names: `num_inference_steps`, `guidance_scale`, `eta`,
            `height`, `negative_prompt`, ... Lists of negative prompts, embeddings or images have one entry per prompt
            or per row (`arguments.py`).

    Raises:
        ModelError: a pipeline that cannot be driven.
        ArgumentError: an argument that the pipeline does not know, or that is passed elsewhere here.

    Example:
        >>> from noiseward.pipelines.load import load_pipeline
        >>> sampler = DiffusersSampler(load_pipeline("stickers"), num_inference_steps=4, eta=1.0)
        >>> sampler(sampler.init(2, seed=7), "a duck").shape
        torch.Size([2, 3, 64, 64])
    """

    def __init__(
        self,
        pipe: Any,
        *,
        memory: str = "balanced",
        decoder: str | Path | Module | None = None,
        denoiser: str | Sequence[str] | None = None,
        **call: Any,
    ) -> None:
        if memory not in MEMORY:
            raise ArgumentError(f"unknown memory mode {memory!r}; {choices(str(memory), MEMORY)}")
        self.pipe = pipe
        self._parameters = list_parameters(pipe)
        self._arguments = check_call(pipe, self._parameters, call)
        self._output = select_output(pipe)
        modules = self.modules
        check_modules(type(pipe).__name__, modules)
        for module in modules.values():
            module.requires_grad_(False).eval()
            allow_gradients(module)
            add_experts_out_of_place(module)
        self._names, self._denoisers = denoiser, find_denoisers(type(pipe).__name__, modules, denoiser)
        warn_of_removal(pipe)
        self._makes_arrays, self._writes = is_array_maker(pipe), writes_into_latents(pipe)
        self._weights = OffloadedWeights(pipe, modules)
        self._decoder = None if decoder is None else open_decoder(decoder, pipe)
        self.stand_in = self._decoder and self._decoder.says
        self._prompts = PromptCache(self._denoisers, weights=self._weights)
        self._range: Range | None = None
        self._expected: list[str] | None = [""]
        counts = {name: count_entries(pipe, self._parameters, name, value) for name, value in self._arguments.items()}
        self._counts = counts
        self.by_row = tuple(name for name, count in counts.items() if count > 1)
        run = self._run_row if runs_alone(self.by_row) else self._run
        self._inner = FunctionSampler(run, self._denoisers, name=type(pipe).__name__)
        self._inner.stand_in = self.stand_in
        self._set_memory(memory)

    def with_call(self, **changes: Any) -> DiffusersSampler:
        """A sampler of the same pipeline that calls it with other arguments."""
        return self.with_pipe(self.pipe, **changes)

    def with_pipe(self, pipe: Any, **changes: Any) -> DiffusersSampler:
        """A sampler of another pipeline of the same models."""
        call = {**self._arguments, **changes}
        decoder = self._decoder and self._decoder.given
        other = DiffusersSampler(pipe, memory=self.memory, decoder=decoder, denoiser=self._names, **call)
        other.expect(self._expected)
        return other

    def with_steps(self, steps: int) -> DiffusersSampler | None:
        listed = any(self._arguments.get(name) is not None for name in ("timesteps", "sigmas"))
        fine = "num_inference_steps" in self._parameters and not listed
        return self.with_call(num_inference_steps=steps) if fine else None

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    @property
    def modules(self) -> dict[str, Module]:
        return {name: part for name, part in self.pipe.components.items() if isinstance(part, Module)}

    @property
    def layout(self) -> Layout:
        layout = self._inner.layout
        self._known_range()
        return layout

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

    def settle(self, batch: int, prompt: Prompt = None) -> None:
        if self._memory == "auto":
            step, rest = self._inner.measure_memory(prompt, self.modules.values())
            steps, available = self.layout.steps, free_memory(self.layout.device)
            self._set_memory(choose_mode(step=batch * step, rest=batch * rest, steps=steps, available=available))

    def __call__(self, noise: Tensor, prompt: Prompt = None) -> Tensor:
        rows = expand_prompts(prompt, noise.shape[0])
        if self.by_row:
            rows = list[str](number_prompts(rows, noise.shape[0]))
        if self._memory == "auto" and noise.requires_grad and torch.is_grad_enabled():
            self.settle(noise.shape[0], rows[0] if rows else None)
        sample = self._inner(noise, rows)
        if self._range is None and rows:
            self._expected = rows[:1]
        return self._known_range()(sample)

    def _set_memory(self, memory: str) -> None:
        self._memory = memory
        below = lower_mode(memory) if memory != "auto" else "low"
        self.lighter = f"memory='{below}'" if below else None
        inside = self._inside if self._weights else recompute_blocks if memory == "low" else None
        self._inner = self._inner.with_memory(memory != "fast", inside=inside, lighter=self.lighter)

    @contextlib.contextmanager
    def _inside(self, module: Module) -> Iterator[None]:
        """Around a call of a denoiser, some of whose weights may be elsewhere, and around its repetition."""
        with self._weights.call(module), contextlib.ExitStack() as stack:
            if self._memory == "low":
                stack.enter_context(recompute_blocks(module, weights=self._weights))
            yield

    def run_stock(self, prompt: Prompt = None, *, seed: int) -> Tensor:
        """The pipeline's own sample of a seed, `(1, *X)`, without tape, graph, safety checker and watermark."""
        rows = expand_prompts(prompt, 1)
        return self._known_range()(self._tensor(self._run_plain(rows, seed, "pt"), 1))

    def show_stock(self, prompt: Prompt = None, *, seed: int) -> Tensor | None:
        with contextlib.suppress(ModelError):
            if "output_type" in self._parameters:
                return to_levels(self._run_plain(expand_prompts(prompt, 1), seed, "pil"))
        return None

    def _run_plain(self, prompt: list[str] | None, seed: int, output_type: str) -> Any:
        """Run the pipeline from a seed, also for what it draws without its generator."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad(), torch.random.fork_rng(), self._prepare():
            torch.manual_seed(seed)
            return self._call(1, prompt, generator=generator, output_type=output_type)

    def _run_row(self, prompt: list[str] | None) -> Tensor:
        """Run one row alone, so that its images are not mixed up with those of others."""
        return self._run(1, prompt)

    def _run(self, batch: int, prompt: list[str] | None) -> Tensor:
        """Run the pipeline for some rows; its noise comes from the tape around it."""
        scheduler = getattr(self.pipe, "scheduler", None)
        is_first = self._range is None and is_recording()
        with self._prepare(), contextlib.ExitStack() as stack:
            observed = is_guided() or is_watched()
            if not observed and not is_first:
                return self._sample(batch, prompt)
            last = stack.enter_context(record_outputs(self._denoisers))
            decode = functools.partial(self._decode, scheduler=scheduler, last=last, batch=batch, prompt=prompt)
            own = getattr(self.pipe, "scheduler", None)
            if observed and callable(getattr(own, "step", None)):
                stack.enter_context(announce_steps(own, decode))
            state = stack.enter_context(track_state(own))
            sample = self._sample(batch, prompt)
            if is_first:
                self._guess_range(sample, functools.partial(decode, output_type="pil"), state)
            return sample

    def _decode(
        self,
        clean: Tensor,
        *,
        scheduler: Any,
        last: dict[Module, Any],
        batch: int,
        prompt: list[str] | None,
        output_type: str = "pt",
    ) -> Any:
        """Decode predictions, which are in the pipeline's own space, as the pipeline does (see `steps.py`)."""
        with contextlib.ExitStack() as stack:
            for each in (off(), unobserved(), record(0, into=[]), repeat_outputs(self._denoisers, last)):
                stack.enter_context(each)
            stack.enter_context(override(self.pipe, "scheduler", freeze_state(copy_scheduler(scheduler), clean)))
            if output_type != "pt":
                return self._call(batch, prompt, output_type=output_type)
            return (self._range or Range.UNIT)(self._sample(batch, prompt))

    def _guess_range(self, sample: Tensor, decode: Callable[[Tensor], Any], state: list[Tensor]) -> None:
        """Find the range of samples from how the pipeline shows the state that this one came from."""
        if "output_type" not in self._parameters or not is_image(sample):
            self._range = Range.UNIT
        elif state:
            with torch.no_grad(), contextlib.suppress(ModelError):  # a call that is not cut short is run whole later
                self._range = find_range(type(self.pipe).__name__, sample, decode(state[0]), same_run=False)

    def _known_range(self) -> Range:
        """The range of samples, found by two whole runs where it is not known yet."""
        if self._range is None:
            sample, shown = self._tensor(self._run_whole("pt"), 1), None
            with contextlib.suppress(ModelError):  # a pipeline may have no images to show
                shown = self._run_whole("pil")
            self._range = find_range(type(self.pipe).__name__, sample, shown, same_run=True) or Range.UNIT
        return self._range

    def _run_whole(self, output_type: str) -> Any:
        """Run the pipeline for one row, the same at every call."""
        with torch.no_grad(), record(0, into=[]), self._prepare():
            return self._call(1, self._expected, output_type=output_type)

    def _sample(self, batch: int, prompt: list[str] | None) -> Tensor:
        return self._tensor(self._call(batch, prompt), batch)

    def _tensor(self, sample: Any, batch: int) -> Tensor:
        """The tensor in a pipeline's result; several images of each row get an axis of their own."""
        if isinstance(sample, list) and sample and all(isinstance(part, Tensor) for part in sample):
            sample = torch.stack(sample) if len({part.shape for part in sample}) == 1 else sample
        if not isinstance(sample, Tensor):
            raise ModelError(
                f"{type(self.pipe).__name__}: expected a tensor with output_type='pt', got {type(sample).__name__}; "
                "wrap its parts with FunctionSampler(fn)"
            )
        sample = lead_with_channels(sample) if self._makes_arrays else sample
        each, rest = divmod(sample.shape[0], batch) if sample.ndim else (1, 0)
        return sample.unflatten(0, (batch, each)) if each > 1 and not rest else sample

    def _call(
        self,
        batch: int,
        prompt: list[str] | None,
        *,
        generator: torch.Generator | None = None,
        output_type: str = "pt",
    ) -> Any:
        """Call the prepared pipeline; returns the first part of its result."""
        arguments = build_arguments(self.pipe, self._parameters, self._arguments, batch, prompt)
        if generator is None and is_recording():  # so that the tape sees which draws the pipeline makes with it
            generator = torch.Generator(self.pipe._execution_device)
        ours = {"generator": generator, "output_type": output_type, "return_dict": False}
        ours = {name: value for name, value in ours.items() if name in self._parameters}
        try:
            keep = self._makes_arrays and output_type == "pt"
            with differentiable(), keep_tensors() if keep else contextlib.nullcontext():
                result = self.pipe(**arguments, **ours, **self._output)
        except NoisewardError:
            raise
        except Exception as error:  # whatever a pipeline raises for what it cannot do
            if is_out_of_memory(error):
                raise
            if reason := explain_guardrail(self.pipe, error):
                raise GradientError(reason) from error
            misfits = describe_misfits(self._counts, prompt)
            raise ModelError(f"{describe_failure(self.pipe, error)}{misfits}") from error
        if isinstance(result, Mapping):  # of a pipeline without return_dict
            result = tuple(result.values())
        return result[0] if isinstance(result, tuple) else result

    @contextlib.contextmanager
    def _prepare(self) -> Iterator[None]:
        """Prepare the pipeline for one run and leave it as it was."""
        pipes = list_pipelines(self.pipe)
        with self._weights.stay(), contextlib.ExitStack() as stack:
            for pipe in pipes:
                stack.enter_context(self._prepare_pipeline(pipe))
            if self._writes:
                stack.enter_context(copy_inputs(self._denoisers))
            for name, module in self.modules.items():
                stack.enter_context(occupy(module))
                if module not in self._denoisers:
                    owners = [pipe for pipe in pipes if getattr(pipe, name, None) is module]
                    prepare = functools.partial(self._prepare_module, name == "vae")
                    stack.enter_context(upcast_copies(owners, name, prepare, self._weights.hold))
            yield

    @contextlib.contextmanager
    def _prepare_pipeline(self, pipe: Any) -> Iterator[None]:
        """Hide its bars, copy its schedulers, cache its prompts, and remove what leaves the graph."""
        with hide_bars(pipe), contextlib.ExitStack() as stack:
            for name, part in pipe.components.items():
                if is_stateful(part):
                    stack.enter_context(replace_trees(part))
                    stack.enter_context(override(pipe, name, copy_scheduler(part)))
            for name in list_removable(pipe):
                stack.enter_context(override(pipe, name, None))
            for name, method in list_out_of_place(pipe):
                stack.enter_context(override(pipe, name, method))
            if callable(getattr(pipe, "encode_prompt", None)):
                stack.enter_context(override(pipe, "encode_prompt", self._prompts.wrap(pipe)))
            yield

    @contextlib.contextmanager
    def _prepare_module(self, is_decoder: bool, module: Any) -> Iterator[None]:
        """Exclude its posterior's draws and, for the decoder, save memory as the mode says."""
        with contextlib.ExitStack() as stack:
            if self._weights.holds(module):
                stack.enter_context(self._weights.drive(module))
            if is_decoder and self._decoder:
                stack.enter_context(override(module, "decode", self._decoder.around(module, module.decode)))
            elif is_decoder and self._memory == "low":
                stack.enter_context(recompute_blocks(module, strips=True, weights=self._weights))
            if callable(getattr(module, "encode", None)):
                stack.enter_context(override(module, "encode", exclude_posterior(module.encode)))
            yield
