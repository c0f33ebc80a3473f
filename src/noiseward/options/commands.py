"""The options of commands that are not those of a run, each declared once."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from noiseward.errors import ArgumentError
from noiseward.options.option import Options, Texts, option
from noiseward.options.run import CallOptions, MemoryOptions, ModelOptions
from noiseward.options.task import TaskOptions

__all__ = [
    "AlignOptions",
    "BatchOptions",
    "CompareOptions",
    "DoctorOptions",
    "EngineOptions",
    "QuietOptions",
    "RenderOptions",
    "ResumeOptions",
    "ServeOptions",
    "StudioOptions",
]


class QuietOptions(Options):
    """What a command prints."""

    listed_in: ClassVar[str | None] = "Output"

    quiet: bool = option(False, short="-q", help="Print neither progress nor tables, only where the result is.")


class PrintOptions(QuietOptions):
    """What a command prints, for people or programs."""

    listed_in: ClassVar[str | None] = "Output"

    as_json: bool = option(
        False, flag="--json", help="Print the result as JSON for programs: docs/scripting.md has its keys."
    )

    def check_printing(self) -> None:
        """Raise `ArgumentError` if both are asked for."""
        if self.quiet and self.as_json:
            raise ArgumentError("--json prints everything and --quiet nothing; leave one out")


class LogOptions(QuietOptions):
    """Where else numbers and images go."""

    listed_in: ClassVar[str | None] = "Output"

    log: Texts = option(
        (),
        group="Watch",
        help="Log to tensorboard, wandb, mlflow or trackio; wandb:project=NAME sets the project. Default project: "
        "noiseward.",
    )


class AlignOptions(LogOptions, PrintOptions):
    """Where a run is kept."""

    listed_in: ClassVar[str | None] = "Output"

    out: str | None = option(None, help="Run directory, new or empty. Default: runs/PROMPT-REWARD.")
    format: Literal["png", "jpg", "webp"] = option(
        "png", help="Also write the best images in this format, with the same metadata as the PNG files."
    )


class EngineOptions(Options):
    """Who does the work."""

    listed_in: ClassVar[str | None] = "Workers"

    engine: Literal["local", "ray"] = option(
        "local", help="local, or ray: one worker per device of a machine or cluster."
    )
    address: str | None = option(None, help="With ray: a running cluster, auto or HOST:PORT.")
    workers: int | None = option(None, ge=1, help="With ray: at most this many. Default: all.")
    threads: int = option(1, ge=1, help="Processor threads per worker.")

    def check(self) -> None:
        """Raise `ArgumentError` if options of the Ray engine are given to another."""
        if self.engine == "local" and (self.address or self.workers):
            raise ArgumentError("--address and --workers need --engine ray, got --engine local; leave them out")


class SweepOptions(LogOptions):
    """Many runs, one command."""

    listed_in: ClassVar[str | None] = "Output"

    out: str = option(..., help="Directory: new, or one to continue.")


def _seeds(default: int) -> Any:
    """Seeds per prompt, with a command's own default."""
    return option(default, ge=1, group="Model", help="Seeds per prompt: SEED, SEED + 1, ...")


class BatchOptions(SweepOptions):
    """Many prompts."""

    listed_in: ClassVar[str | None] = "Budget"

    prompts: str = option(
        ...,
        argument=True,
        help="A file of prompts, .txt (one per line), .jsonl or .csv (with columns that set options per line), or the "
        "name of a set: simple-animals.",
    )
    seeds: int = _seeds(1)
    pack: int = option(4, ge=1, help="Rows, prompts times seeds, that run as one batch of the device.")
    template: str = option("{}", group="Model", help="Text around each prompt, as in 'a {} on a lake'.")
    json_lines: bool = option(
        False,
        flag="--json",
        group="Output",
        help="Print a line of JSON per event, no table: docs/scripting.md has its keys.",
    )


class CompareOptions(SweepOptions, PrintOptions):
    """Which method?"""

    listed_in: ClassVar[str | None] = "Method"

    prompts: Texts = option((), help="Prompts, or text files with one per line.")
    seeds: int = _seeds(4)
    methods: str | None = option(
        None, help="Methods with commas between, as in best-of-n,reno,dno:lr=0.05. Default: docs/compare.md lists them."
    )
    budget: str = option(
        "nfe=2000",
        group="Budget",
        help="The same for all: nfe=2000 (denoiser calls per image) or seconds=60 (per pack).",
    )

    @property
    def limit(self) -> tuple[Literal["nfe", "seconds"], float]:
        """Kind and amount of the budget.

        Example:
            >>> CompareOptions(out="out", budget="seconds=60").limit
            ('seconds', 60.0)
        """
        kind, _, text = (part.strip() for part in self.budget.partition("="))
        try:
            amount = float(text)
        except ValueError:
            amount = math.nan
        fits = amount.is_integer() if kind == "nfe" else kind == "seconds"
        if not (fits and 0 < amount < math.inf and text.isascii()):
            raise ArgumentError(
                f"--budget must be nfe=NUMBER, an integer >= 1, or seconds=NUMBER, > 0, got '{self.budget}'"
            )
        return "nfe" if kind == "nfe" else "seconds", amount


class ResumeOptions(LogOptions, PrintOptions, MemoryOptions):
    """More of a run."""

    listed_in: ClassVar[str | None] = "Budget"

    steps: str | None = option(None, help="Optimization steps in total, as 50, or in addition to those done, as +20.")
    seconds: str | None = option(None, help="Seconds in total, or in addition to those spent, as +60.")
    nfe: str | None = option(None, help="Denoiser calls in total, or in addition to those spent, as +500.")


class RenderOptions(Options):
    """The noise of a run in another way."""

    listed_in: ClassVar[str | None] = "Model"

    num_inference_steps: int | None = option(
        None, ge=1, help="Denoising steps: a multiple of the run's, or a whole part of them."
    )
    scheduler: str | None = option(None, help="Another sampler, where both draw noise at the start alone, as ODEs do.")
    height: int | None = option(
        None, gt=0, unit="pixels", help="Height of the render: a multiple of the run's, or a whole part of it."
    )
    width: int | None = option(
        None, gt=0, unit="pixels", help="Width of the render: a multiple of the run's, or a whole part of it."
    )
    seeds: int = option(0, ge=0, le=1000, help="How many neighbors of the best noise to render, too.")
    cosine: float = option(
        0.95,
        ge=0,
        lt=1,
        help="Cosine of the angle between the best noise and its neighbors: the closer to 1, the closer.",
    )
    out: str | None = option(
        None,
        group="Output",
        help="Where to write the images. Default: a folder in RUN/render, named by what is changed.",
    )
    as_json: bool = option(
        False,
        flag="--json",
        group="Output",
        help="Print the renders as JSON for programs: docs/scripting.md has its keys.",
    )

    def check(self) -> None:
        """Raise `ArgumentError` if an option of neighbors is given, and none are asked for."""
        if "cosine" in self.model_fields_set and not self.seeds:
            raise ArgumentError("--cosine is for neighbors, got no --seeds; say how many, as --seeds 8")

    @property
    def changes(self) -> dict[str, Any]:
        """What is changed about the sampler, by name."""
        names = ("num_inference_steps", "scheduler", "height", "width")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class DoctorOptions(ModelOptions, CallOptions, TaskOptions):
    """A check of a model."""

    listed_in: ClassVar[str | None] = "Output"

    fit: str | None = option(
        None,
        help="Say which settings fit into that much memory, as 12GB, for --model or every model that was counted; "
        "nothing is loaded.",
    )
    as_json: bool = option(
        False, flag="--json", help="Print the findings as JSON for programs: docs/scripting.md has its keys."
    )


class StudioOptions(Options):
    """The page in the browser."""

    listed_in: ClassVar[str | None] = "Output"

    runs: str = option("runs", help="Folder of the runs, new or not.")
    host: str = option("127.0.0.1", help="Address of the page; one that others can reach needs a token.")
    port: int = option(7860, ge=0, le=65535, help="Port of the page; 0 takes a free one.")
    token: str = option(
        "",
        env="NOISEWARD_TOKEN",
        help="What others must show to use the page; better set in NOISEWARD_TOKEN than given here, where other users "
        "of the machine can read it.",
    )
    browser: bool = option(False, help="Open the page in the browser.")
    allow_code: bool = option(
        False, help="Let the page define rewards as Python functions, which run on this machine; never beyond it."
    )


class ServeOptions(Options):
    """A reward as a server."""

    reward: str = option(..., argument=True, help="NAME, or path/to/file.py:function (this runs that file).")
    port: int = option(8000, ge=0, le=65535, help="Port to listen on; 0 takes a free one.")
    host: str = option("127.0.0.1", help="Address to listen on; one that others can reach needs a token.")
    token: str = option(
        "",
        env="NOISEWARD_TOKEN",
        help="Answer only clients that show this token; better set in NOISEWARD_TOKEN, for both ends, than given here, "
        "where other users of the machine can read it.",
    )
