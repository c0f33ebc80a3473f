"""The front door: a pipeline (or a name), a prompt and a reward in, the aligned samples out.

:func:`align` is one call. :func:`steps` is the same as a loop of your own, one step of the optimization at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch

from noiseward.errors import ArgumentError, describe_error
from noiseward.loop.collect import Collector
from noiseward.loop.notebook import NotebookBars, is_notebook
from noiseward.loop.progress import Bars, Display
from noiseward.loop.solution import Solution
from noiseward.loop.step import Step
from noiseward.options.replaced import REPLACED, renamed
from noiseward.options.run import RunSpec, Settings
from noiseward.options.table import describe_options
from noiseward.problem import Methods, Problem, Rewards, Watch, prepare
from noiseward.runs.interrupt import read_handlers, set_handlers
from noiseward.runs.perform import perform
from noiseward.runs.python import describe_call
from noiseward.samplers.in_use import occupy
from noiseward.samplers.sampler import Sampler
from noiseward.trackers import Log, TrackedRun, check_trackers, list_trackers, open_tracker, track

__all__ = ["Steps", "align", "steps"]


@final
class Steps(Generator[Step, None, Solution]):
    """The steps of a run, each made when it is asked for, and what they come to.

    A run in a directory puts off a Ctrl-C while it writes. Between two steps signals are the caller's own.

    Example:
        >>> run = steps("stickers", "a duck", "brightness", steps=9, num_inference_steps=4, progress=False)
        >>> for step in run:
        ...     if step.index == 1:
        ...         break
        >>> len(run.solution.history)
        2
    """

    def __init__(self, steps: Generator[Step, None, Solution]) -> None:
        self._steps = steps
        self._solution: Solution | None = None
        self._error: Exception | None = None
        self._handlers: dict[int, Any] = {}

    def send(self, value: None) -> Step:
        """Make the next step."""
        with self._making():
            return next(self._steps)

    def throw(self, *error: Any) -> Step:
        """End the run with an error; with KeyboardInterrupt as Ctrl-C does."""
        with self._making():
            return self._steps.throw(*error)

    @contextlib.contextmanager
    def _making(self) -> Iterator[None]:
        """A step is made in the body: the signal handlers of a run are in place, and how it ends is noted."""
        theirs = read_handlers()
        set_handlers(self._handlers)
        try:
            yield
        except StopIteration as end:
            self._solution = self._solution or end.value
            raise
        except Exception as error:
            self._error = error
            raise
        finally:
            self._handlers = read_handlers()
            set_handlers(theirs)

    @property
    def solution(self) -> Solution:
        """The best of each row. Steps that are left are not made: the run ends here, as by Ctrl-C.

        Raises:
            ArgumentError: no step was made, or the run failed.
        """
        if self._solution is None and self._error is None:
            with contextlib.suppress(StopIteration, KeyboardInterrupt):
                self.throw(KeyboardInterrupt())
        if self._error is not None:
            reason = describe_error(self._error, 200)
            raise ArgumentError(f"the run failed ({reason}); give out= to keep what there is when that happens")
        if self._solution is None:
            raise ArgumentError("expected at least one step, got none; loop over the steps first")
        return self._solution


def steps(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    *,
    method: Methods = None,
    watch: Watch = None,
    out: str | Path | None = None,
    log: Log = (),
    progress: bool = True,
    **options: Any,
) -> Steps:
    """The steps of `align`, one at a time: for a callback, a stop, or a logger of your own.

    Arguments are those of `align`.

    Returns:
        an iterator over `Step`. Its `solution` is what `align` returns, also where the loop was left early.

    Raises:
        NoisewardError: bad arguments; a failure of the model or the reward where the next step is asked for.

    Example:
        >>> run = steps("stickers", "a duck", "brightness", steps=50, num_inference_steps=4, progress=False)
        >>> for step in run:
        ...     if step.index == 2:
        ...         break
        >>> len(run.solution.history), run.solution.status[0].name
        (3, 'INTERRUPTED')
    """
    return Steps(
        _begin(model, prompt, reward, options, method=method, watch=watch, out=out, log=log, progress=progress)
    )


@torch.inference_mode(False)
def _begin(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    options: Mapping[str, Any],
    *,
    method: Methods,
    watch: Watch,
    out: str | Path | None,
    log: Log,
    progress: bool,
) -> Generator[Step, None, Solution]:
    """Set up a run without making its steps."""
    settings = Settings.read(_sort(options))
    check_trackers(log)
    spec = None if out is None else describe_call(model, prompt, reward, settings, method=method, watch=watch)
    bars = (NotebookBars() if is_notebook() else Bars()) if progress else None
    with bars.show_discovery() if bars else contextlib.nullcontext():
        problem = prepare(model, prompt, reward, settings, method=method, watch=watch)
    if bars and problem.note:
        bars.say(problem.note)
    if out is None or spec is None:
        return _collecting(problem, bars, log)
    return perform(problem, spec, Path(out), log=log, bars=bars, besides=("steps", "seconds", "nfe"))


def _collecting(problem: Problem, bars: Display | None, log: Log) -> Generator[Step, None, Solution]:
    collector, about = Collector(problem.objective, method=problem.does, about=problem.about), problem.about
    run = TrackedRun(about.slug, folder=Path("runs") / about.slug, config=about.plain())
    steps = problem.shown(bars) if bars else problem.iterate()
    for tracker in list_trackers(log):
        steps = track(steps, open_tracker(tracker, run), about)
    with collector:
        for step in steps:
            collector.add(step)
            yield step
    return collector.solution


def align(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    *,
    method: Methods = None,
    steps: int | None = None,
    seconds: float | None = None,
    batch: int = 1,
    seed: int = 0,
    watch: Watch = None,
    out: str | Path | None = None,
    log: Log = (),
    progress: bool = True,
    **options: Any,
) -> Solution:
    """Raise the reward of the samples of a prompt by optimizing the noise that the sampler draws.

    Arguments:
        model: a diffusers pipeline, a `Sampler`, or a name as below.
        prompt: one or several; each is sampled `batch` times. None for a model without prompts.
        reward: as below, or a `Reward`, a differentiable function of images, a `torch.nn.Module`, a pair of a
            transformers image classifier and a label, a list of these, or a mapping from these to weights.
        method: as below, or a `Recipe`, a `Method` or an `Optimizer`.
        watch: as below, or a list of what a reward can be; `()` for none.
        out: a directory to keep the run in, step by step. A run that was cut short there is continued by the same call,
            and by `noiseward resume` where all it was given can be written down.
        log: `tensorboard`, `wandb`, `mlflow` or `trackio`, with a project as in `wandb:project=ducks`; a `Tracker` of
            your own; or a list of these.
        progress: show a progress bar.
        options: the other options below; any other argument is the pipeline's own.

    Options:
        {options}

    Returns:
        the `Solution`. Row `p * batch + b` is prompt p with seed `seed + b`.

    Raises:
        NoisewardError: bad arguments, or a failure of the model or the reward.

    Example:
        >>> solution = align("stickers", "a duck", "brightness", steps=2, num_inference_steps=4, progress=False)
        >>> bool(solution.gain > 0)
        True
    """
    given = {"steps": steps, "seconds": seconds, "batch": batch, "seed": seed, **options}
    is_own = isinstance(model, str | Path | Sampler)  # loaded for this run, or occupied by the sampler as it needs
    with contextlib.nullcontext() if is_own else occupy(model):
        run = _begin(model, prompt, reward, given, method=method, watch=watch, out=out, log=log, progress=progress)
        while True:
            try:
                next(run)
            except StopIteration as end:
                return end.value


align.__doc__ = (align.__doc__ or "").replace("{options}", describe_options(RunSpec, indent=8).lstrip())


def _sort(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, and under `call` the arguments that are none."""
    if replaced := [name for name in given if name in REPLACED]:
        raise ArgumentError(renamed(replaced[0], given[replaced[0]]))
    call = {name: value for name, value in given.items() if name not in Settings.model_fields}
    own = {name: value for name, value in given.items() if name not in call}
    inner = own.get("call", {})
    return {**own, "call": {**inner, **call}} if isinstance(inner, dict) else own
