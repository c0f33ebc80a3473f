"""The options of a run, each declared once.

Everything else follows from these fields: the keyword arguments of `align`, the commands, the columns of prompt files,
TOML files, `spec.json`, the JSON Schema, and the table in the docs. To add an option, declare it here and use it where
it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, PrivateAttr, field_validator, model_validator

from noiseward.errors import ArgumentError
from noiseward.options.option import Options, Texts, as_texts, option
from noiseward.options.parts import split_parts
from noiseward.options.slug import shorten_to_slug
from noiseward.options.start import Start
from noiseward.options.storable import check_storable
from noiseward.options.task import ImageOptions, TaskOptions

__all__ = [
    "CALL",
    "DEFAULT_MODEL",
    "FORMAT",
    "Memory",
    "BudgetOptions",
    "CallOptions",
    "LoadOptions",
    "MemoryOptions",
    "ModelOptions",
    "RunSpec",
    "Settings",
    "lift_call",
]

FORMAT = 4  # of spec.json: 1 has no ids and checksums (`runs/binding.py`); for 1 to 3 see `runs/formats.py`
# Added to format 4 later: not written where they are not set, so that ids of runs stay what they were.
ADDED = (
    "require", "stop_when", "max_cost", "start", "offload", "decoder", "compile",
    *TaskOptions.names(),
)  # fmt: skip
DEFAULT_MODEL = "stickers"
DEFAULT_STEPS = 30
MOST_STEPS = 1_000_000  # more is a slip of the hand, and would never end
Memory = Literal["auto", "fast", "balanced", "low"]
Offload = Literal["models", "layers"]
Stops = Annotated[tuple[Literal["plateau", "hacked"], ...], BeforeValidator(as_texts)]


class MemoryOptions(Options):
    """How much memory a gradient may take."""

    listed_in: ClassVar[str | None] = "Model"

    memory: Memory | None = option(
        None,
        help="fast keeps all activations, balanced recomputes them one denoiser call at a time, low block by block; "
        "auto takes the fastest that fits. Default: the model card's, else balanced.",
    )


class LoadOptions(MemoryOptions):
    """How a model is loaded."""

    listed_in: ClassVar[str | None] = "Model"

    scheduler: str | None = option(None, help="Another scheduler: ddim, euler-a, ..., or a diffusers class.")
    lora: str | None = option(None, help="A file or folder of LoRA weights.")
    dtype: str | None = option(None, help="Data type of the weights: float32, bfloat16, ...")
    device: str | None = option(None, help="auto, cpu, cuda, or mps. Default: auto.")
    offload: Offload | None = option(
        None,
        help="Keep weights in main memory and bring them to the GPU when they are needed: models takes whole models in "
        "turn, layers one layer at a time, which is slower and needs least.",
    )

    compile: bool = option(
        False,
        help="Compile the denoiser's blocks: setting a run up takes minutes then, and so does its first step, which "
        "counts in seconds; each later step may take less time.",
    )
    decoder: str | None = option(
        None,
        help="Another decoder for gradients alone, which needs less time and memory and biases them: tiny for the "
        "published one of that kind, or the one that comes with the built-in model; half for half size; the folder or "
        "hub id of an AutoencoderTiny; or a file such as taef2_decoder.pth.",
    )

    @property
    def loading(self) -> dict[str, Any]:
        """What `pipelines.load` takes."""
        names = ("scheduler", "lora", "dtype", "device", "offload", "compile")
        return {name: value for name in names if (value := getattr(self, name)) not in (None, False)}


class ModelOptions(LoadOptions):
    """Which model."""

    listed_in: ClassVar[str | None] = "Model"

    model: str = option(
        DEFAULT_MODEL,
        help="A short name ('noiseward models'), folder, hub id, checkpoint, or "
        "path/to/file.py:function of your own, which makes a sampler or a pipeline (this runs that file).",
    )


class CallOptions(ImageOptions):
    """Arguments of the pipeline's own call, under its own names."""

    listed_in: ClassVar[str | None] = "Model"

    num_inference_steps: int | None = option(None, ge=1, help="Denoising steps.")
    guidance_scale: float | None = option(None, help="Scale of classifier-free guidance.")
    eta: float | None = option(
        None, ge=0, le=1, help="DDIM: 0 for the ODE, 1 for noise at every step. Default: 1 if the pipeline takes it."
    )
    height: int | None = option(None, gt=0, unit="pixels", help="Height of the image.")
    width: int | None = option(None, gt=0, unit="pixels", help="Width of the image.")
    negative_prompt: str | tuple[str, ...] | None = option(None, help="What not to draw.")
    call: dict[str, Any] = option({}, flag="--set", help="Any other argument of the pipeline, as KEY=VALUE.")

    def _fill(self, values: dict[str, Any], spell: Callable[[str], str]) -> None:
        super()._fill(lift_call(values), spell)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with."""
        own = {name: value for name in CALL if (value := getattr(self, name)) is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()} | self.call


class BudgetOptions(Options):
    """When to stop: the first limit met. `target` alone is no limit, it may never be reached."""

    listed_in: ClassVar[str | None] = "Budget"

    steps: int | None = option(
        None, ge=0, le=MOST_STEPS, help="Optimization steps. Default: 30 if no other limit is set."
    )
    seconds: float | None = option(None, ge=0, unit="s", help="Stop before this much time has passed.")
    nfe: int | None = option(None, ge=0, help="Stop before this many denoiser calls per row; a backward counts 2.")
    target: float | None = option(None, help="Stop optimizing a row when its reward reaches this.")

    @property
    def limits(self) -> dict[str, Any]:
        """What `Budget` takes, with the default where no limit is set."""
        steps = DEFAULT_STEPS if (self.steps, self.seconds, self.nfe) == (None, None, None) else self.steps
        return {"steps": steps, "seconds": self.seconds, "nfe": self.nfe, "reward": self.target}


class Settings(BudgetOptions, CallOptions, TaskOptions, LoadOptions):
    """The options of a run other than its model, prompt, reward, method and watched rewards."""

    listed_in: ClassVar[str | None] = "Model"

    require: Texts = option(
        (),
        group="Method",
        help="What results must meet, as NAME>=NUMBER or NAME<=NUMBER, quoted: 'clip>=0.25'. Several must all hold.",
    )
    stop_when: Stops = option(
        (),
        group="Budget",
        help="End an image early: plateau, once its reward has stopped rising; hacked, once the watched rewards show "
        "likely reward hacking, with the best before it.",
    )
    max_cost: float | None = option(
        None,
        gt=0,
        group="Budget",
        help="The most that chat judges may cost together, in the currency of their price_in= and price_out=; each "
        "worker process counts for itself.",
    )
    batch: int = option(1, ge=1, help="Images per prompt, with seeds SEED, SEED + 1, ...")
    seed: int = option(0, ge=-(2**63), le=2**63 - 1, help="Start from the image the pipeline makes with this seed.")
    start: Start = option(
        None,
        help="Start from noise that is there: the best of a run, RUN; that of a step whose frame was kept, RUN@STEP; "
        "one row of it, RUN:ROW; a .safetensors file; in Python also a tensor. Default: fresh noise of the seed.",
    )
    watch_every: int = option(1, ge=1, group="Watch", help="Score watched rewards every so many steps.")

    @model_validator(mode="after")
    def _seeds_fit(self) -> Settings:
        if self.seed > 2**63 - self.batch:
            raise ArgumentError(f"seed + batch must be <= 2^63, got {self.seed} + {self.batch}; take a smaller seed")
        return self


class RunSpec(Settings, ModelOptions):
    """All options of a run, as they can be written down.

    Example:
        >>> RunSpec(prompt="A duck!", reward="brightness").slug
        'a-duck-brightness'
    """

    listed_in: ClassVar[str | None] = "Method"

    prompt: Texts = option(
        (), argument=True, help="What to draw; several prompts run in one batch. None for a model without prompts."
    )
    reward: Texts = option(
        ...,
        min_length=1,
        help="NAME, NAME:WEIGHT, path/to/file.py:function (this runs that file), or http://host:port (a server that "
        "receives the images). Several are added up. 'noiseward rewards' lists the names.",
    )
    method: str | None = option(
        None,
        help="How the noise is optimized: NAME or NAME:ARG=VALUE,..., as in dno:lr=0.02,guard=shell:0.01. "
        "'noiseward methods' lists them; path/to/file.py:Class is one of your own (this runs that file). "
        "Default: auto.",
    )
    watch: Texts | None = option(
        None,
        group="Watch",
        help="Held-out rewards to track, which are not optimized; none for none. Default: the model card's.",
    )
    _origin: Mapping[str, Any] | None = PrivateAttr(None)

    @field_validator("watch")
    @classmethod
    def _split(cls, watch: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if watch is None else tuple(name for name in split_parts(watch) if name != "none")

    def _fill(self, values: dict[str, Any], spell: Callable[[str], str]) -> None:
        super()._fill(values, spell)
        check_storable(self.values(), spell=spell)

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """The file of an earlier format that it was read from, as plain data; None for any other."""
        return self._origin

    def from_file(self, content: Mapping[str, Any]) -> RunSpec:
        """The same spec, read from a file of an earlier format."""
        spec = self.model_copy()
        spec._origin = content
        return spec

    def replace(self, **changes: Any) -> RunSpec:
        spec = super().replace(**changes)
        spec._origin = self._origin
        return spec

    def plain(self) -> dict[str, Any]:
        plain = super().plain()
        images = {name: value for name in ImageOptions.names() if (value := plain.pop(name)) is not None}
        plain["call"] = {**plain["call"], **images}  # where they were before they were options
        return {name: value for name, value in plain.items() if value or name not in ADDED}

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return max(1, len(self.prompt)) * self.batch

    @property
    def slug(self) -> str:
        """A short name for a folder."""
        rewards = [text.rpartition(".py:")[2].split(":")[0] for text in self.reward]
        return shorten_to_slug(f"{' '.join(self.prompt[:1])} {' '.join(rewards)}")


CALL = tuple(name for name in CallOptions.model_fields if name != "call")


def lift_call(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values, with options of their own taken out of `call`.

    Example:
        >>> lift_call({"seed": 1, "call": {"eta": 0.5, "clip_skip": 1}})
        {'seed': 1, 'call': {'clip_skip': 1}, 'eta': 0.5}
    """
    call = values.get("call")
    if not isinstance(call, dict):
        return dict(values)
    own = {name: call[name] for name in CALL if name in call}
    if twice := [name for name in own if values.get(name) is not None]:
        raise ArgumentError(f"{twice[0]} is given twice, by itself and in call; give it once")
    return {**values, "call": {name: value for name, value in call.items() if name not in own}, **own}
