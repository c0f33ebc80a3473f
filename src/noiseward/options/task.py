"""Which task a model does, and the images it does it with."""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, WithJsonSchema

from noiseward.options.option import Options, option

__all__ = ["IMAGES", "ImageOptions", "TaskOptions"]

IMAGES = ("image", "mask_image", "control_image", "ip_adapter_image")

_PATH = {"type": "string"}
_SCHEMA = {"anyOf": [_PATH, {"type": "array", "items": {"anyOf": [_PATH, {"type": "array"}]}}, {"type": "null"}]}


def _as_image(value: Any) -> Any:
    """A path as text; in Python also a Pillow image, an array or a tensor; or a list of these."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple) and value and type(value) in (list, tuple):
        return [_as_image(part) for part in value]
    if value == "" if isinstance(value, str) else isinstance(value, bool | int | float | bytes | dict | set | list):
        raise ValueError("the path of an image, an image, or a list of these")
    return value


def _as_model(value: Any) -> Any:
    """A folder or a hub id as text; in Python also a model."""
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if value is not None and not (isinstance(value, str) and value) and not hasattr(value, "config"):
        raise ValueError("a folder, a hub id, or a ControlNet")
    return value


Image = Annotated[Any, BeforeValidator(_as_image), WithJsonSchema(_SCHEMA)]

ControlNet = Annotated[Any, BeforeValidator(_as_model), WithJsonSchema({"anyOf": [_PATH, {"type": "null"}]})]


class ImageOptions(Options):
    """Arguments of the pipeline's own call that images belong to."""

    listed_in: ClassVar[str | None] = "Task"

    image: Image = option(None, help="The image to start from, or whose part behind the mask is drawn again.")
    mask_image: Image = option(None, help="Inpainting: white where the image is drawn again, black where it stays.")
    control_image: Image = option(None, help="What the ControlNet follows: edges, depth, a pose, ...")
    ip_adapter_image: Image = option(None, help="The image that the IP-Adapter takes as a prompt.")
    strength: float | int | None = option(
        None,
        gt=0,
        le=1,
        help="How much of the image is noise at the start: 1 for all of it. Default: the pipeline's own.",
    )


class TaskOptions(Options):
    """What a text-to-image model is used for."""

    listed_in: ClassVar[str | None] = "Task"

    task: Literal["text2img", "img2img", "inpaint", "controlnet"] | None = option(
        None,
        help="text2img, img2img, inpaint, or controlnet. Default: what the images that are given ask for, else the "
        "model's own.",
    )
    controlnet: ControlNet = option(None, help="A ControlNet for the model: a folder or hub id.")
    ip_adapter: str | None = option(
        None,
        min_length=1,
        help="An IP-Adapter for the model: a .safetensors file, a folder, a hub id, or a file in one, ID/PATH.",
    )
    ip_adapter_scale: float | None = option(
        None, help="How much the IP-Adapter counts, from 0 to 1. Default: 1, as diffusers has it."
    )

    @property
    def conversion(self) -> dict[str, Any]:
        """What `pipelines.tasks` takes."""
        names = TaskOptions.names()
        return {name: value for name in names if (value := getattr(self, name)) is not None}
