"""Which task a pipeline does: another pipeline class around the same models, as the images that are given ask for.

A text-to-image model starts from an image (img2img), draws a part of one again (inpaint), or follows one (controlnet)
with the classes that diffusers has for its family: `AutoPipelineForImage2Image.from_pipe` and similar classes, which
share the models. A pipeline that takes all images by itself is left as it is, unless a task is named.

Where a ControlNet takes part, `image` is what is started from, and `control_image` what the ControlNet follows, also in
pipelines that call the latter `image`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from noiseward.errors import ArgumentError, ModelError, choices, describe_error
from noiseward.pipelines.calls import get_default, list_parameters
from noiseward.pipelines.controlnets import load_controlnet
from noiseward.pipelines.ip_adapters import add_ip_adapter
from noiseward.pipelines.sizes import fit_images
from noiseward.terminal import silence

__all__ = ["check_request", "check_strength", "convert_pipeline"]

_CONVERTERS = {
    "text2img": "AutoPipelineForText2Image",
    "img2img": "AutoPipelineForImage2Image",
    "inpaint": "AutoPipelineForInpainting",
}
_NEEDED: dict[str, dict[str, str]] = {  # the images that each task needs
    "text2img": {},
    "img2img": {"image": "the image to start from"},
    "inpaint": {"image": "the image to draw a part of again", "mask_image": "an image that is white there"},
    "controlnet": {"control_image": "the image to follow"},
}
_TAKEN = {
    "text2img": (),
    "img2img": ("image", "control_image"),
    "inpaint": ("image", "mask_image", "control_image"),
    "controlnet": ("image", "mask_image", "control_image"),
}
_GIVEN = ("image", "mask_image", "control_image")


def check_request(asked: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` where what is asked for does not fit together, whatever the model.

    Arguments:
        asked: `task`, `controlnet`, `ip_adapter` and `ip_adapter_scale`, as far as they are given.
        call: arguments of the pipeline's call.
    """
    given, task = _list_images(call), asked.get("task")
    if task is not None and task not in _NEEDED:
        raise ArgumentError(f"unknown task '{task}'; {choices(str(task), _NEEDED)}")
    for name, role in _NEEDED.get(task or "", {}).items():
        if name not in given:
            raise ArgumentError(f"task {task} needs {name}, got none; give {role}")
    for name in given:
        if task is not None and name not in _TAKEN[str(task)]:
            raise ArgumentError(f"task {task} takes no {name}; leave it out, or name the task {_imply(given, asked)}")
    if asked.get("controlnet") is not None:
        if task == "text2img":
            raise ArgumentError("task text2img takes no controlnet; leave it out, or name the task controlnet")
        if "control_image" not in given:
            raise ArgumentError("controlnet needs control_image, got none; give the image that it follows")
    if (asked.get("controlnet") is not None or task == "controlnet") and "mask_image" in given and "image" not in given:
        raise ArgumentError("mask_image needs image, got none; give the image that it masks")
    if asked.get("ip_adapter_scale") is not None and asked.get("ip_adapter") is None:
        raise ArgumentError("ip_adapter_scale needs ip_adapter, got none; give a file, a folder or a hub id")
    embedded = any(call.get(name) is not None for name in ("ip_adapter_image", "ip_adapter_image_embeds"))
    if asked.get("ip_adapter") is not None and not embedded:
        raise ArgumentError("ip_adapter needs ip_adapter_image, got none; give the image that it takes as a prompt")


def convert_pipeline(
    pipe: Any, asked: Mapping[str, Any], call: Mapping[str, Any], *, own: bool
) -> tuple[Any, dict[str, Any]]:
    """A pipeline that does what is asked for, and the arguments to call it with.

    Arguments:
        pipe: a pipeline.
        asked: `task`, `controlnet`, `ip_adapter` and `ip_adapter_scale`, as far as they are given.
        call: arguments of the call; its images are Pillow images, arrays or tensors.
        own: whether the pipeline was loaded for this, so that its models may be changed.

    Raises:
        ArgumentError: what is asked for does not fit together, or not this pipeline.
        ModelError: a model cannot be loaded, or there is no such pipeline for this one.
    """
    check_request(asked, call)
    if (adapter := asked.get("ip_adapter")) is not None:
        if not own:
            raise ArgumentError(
                f"ip_adapter needs a model by its name, got a {type(pipe).__name__}; call its load_ip_adapter() and "
                "set_ip_adapter_scale() first, and leave ip_adapter out"
            )
        add_ip_adapter(pipe, adapter, scale=asked.get("ip_adapter_scale"))
    elif call.get("ip_adapter_image") is not None and not _has_ip_adapter(pipe):
        raise ArgumentError("ip_adapter_image needs ip_adapter, got none; give a file, a folder or a hub id")
    task, net, call = asked.get("task"), asked.get("controlnet"), dict(call)
    given, known = _list_images(call), list_parameters(pipe)
    if task is None and net is None:
        if "control_image" in given and "control_image" not in known and _has_controlnet(pipe) and "image" not in given:
            return pipe, fit_images(pipe, _rename(call), known)
        if set(given) <= known:
            if "strength" in call and "strength" not in known and not given:
                raise ArgumentError("strength needs image, got none; give the image to start from")
            return pipe, fit_images(pipe, call, known)
        _check_implied(pipe, given)
    if task == "controlnet" and net is None and not _has_controlnet(pipe):
        _refuse_control(pipe, "task controlnet")
    if _has_controlnet(pipe) and "control_image" not in given and task != "text2img":
        raise ArgumentError(
            f"{type(pipe).__name__} needs control_image, got none; give the image its ControlNet follows"
        )
    base = _imply({name: call[name] for name in given if name != "control_image"}, {})
    controlnet = load_controlnet(net, pipe) if net is not None else None
    more = {} if controlnet is None and task != "text2img" else {"controlnet": controlnet}
    converted = _convert(pipe, base, given, more)
    known = list_parameters(converted)
    if "control_image" in given and "control_image" not in known and base == "text2img":
        call = _rename(call)
    if "strength" in call and "strength" not in known and "image" not in given:
        raise ArgumentError("strength needs image, got none; give the image to start from")
    return converted, fit_images(converted, call, known, converted=True)


def check_strength(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` if so little of an image is noise that no denoising step is left."""
    strength, listed = call.get("strength"), any(call.get(name) is not None for name in ("timesteps", "sigmas"))
    count = call.get("num_inference_steps", get_default(pipe, "num_inference_steps"))
    if isinstance(strength, int | float) and isinstance(count, int) and not listed and int(count * strength) < 1:
        raise ArgumentError(
            f"strength={strength} of num_inference_steps={count} leaves no step; give strength >= {1 / count:.3g}, or "
            "more steps"
        )


def _convert(pipe: Any, base: str, given: Mapping[str, Any], more: Mapping[str, Any]) -> Any:
    """The pipeline of a task around the same models, and more."""
    import diffusers

    name = type(pipe).__name__
    what = f"{base} with a ControlNet" if "control_image" in given else base
    try:
        with silence("diffusers", "transformers"):
            converted = getattr(diffusers, _CONVERTERS[base]).from_pipe(pipe, **more)
    except Exception as error:  # it has no class for this pipeline, or that needs another model
        reason = "" if "AutoPipeline can't find" in str(error) else f" ({describe_error(error, 120)})"
        raise ModelError(
            f"{name} has no pipeline for {what} in diffusers{reason}; give another model, or a pipeline of your own"
        ) from None
    if type(converted) is type(pipe) and not any(more.values()):
        return pipe
    if "control_image" in given and not _has_controlnet(converted):
        _refuse_control(pipe, "control_image")
    _check_channels(converted, base)
    converted.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return converted


def _check_channels(pipe: Any, base: str) -> None:
    """Raise `ArgumentError` for a UNet that cannot be called for a task: it sees a mask, or is not made for one."""
    unet, vae = (pipe.components.get(name) for name in ("unet", "vae"))
    channels = getattr(getattr(unet, "config", None), "in_channels", None)
    latent = getattr(getattr(vae, "config", None), "latent_channels", None)
    if base != "inpaint" and latent is not None and channels == 2 * latent + 1:
        raise ArgumentError(f"this model only inpaints (its UNet takes {channels} channels); give image and mask_image")
    if base == "inpaint" and type(pipe).__name__.startswith("StableDiffusion") and channels not in (None, 4, 9):
        raise ArgumentError(
            f"inpainting in diffusers needs a UNet of 4 or 9 channels, got one of {channels}; give an SD 1.5, "
            "SDXL or inpainting model, or leave mask_image out"
        )


def _check_implied(pipe: Any, given: Mapping[str, Any]) -> None:
    """Raise `ArgumentError` where images that a pipeline does not take by itself imply no task."""
    if "mask_image" in given and "image" not in given:
        raise ArgumentError("mask_image needs image, got none; give the image that it masks")
    if "control_image" in given and not _has_controlnet(pipe):
        _refuse_control(pipe, "control_image")


def _refuse_control(pipe: Any, what: str) -> NoReturn:
    name = type(pipe).__name__
    raise ArgumentError(f"{what} needs controlnet, which {name} has none of; give a folder or a hub id")


def _imply(given: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The task that images ask for."""
    if "control_image" in given or asked.get("controlnet") is not None:
        return "controlnet"
    return "inpaint" if "mask_image" in given else "img2img" if "image" in given else "text2img"


def _list_images(call: Mapping[str, Any]) -> dict[str, Any]:
    return {name: call[name] for name in _GIVEN if call.get(name) is not None}


def _has_controlnet(pipe: Any) -> bool:
    return pipe.components.get("controlnet") is not None


def _has_ip_adapter(pipe: Any) -> bool:
    """Whether an IP-Adapter is loaded, as far as that can be seen: in a UNet."""
    unet = pipe.components.get("unet")
    return unet is None or getattr(unet, "encoder_hid_proj", None) is not None


def _rename(call: Mapping[str, Any]) -> dict[str, Any]:
    """The same arguments for a pipeline that follows `image`."""
    return {"image" if name == "control_image" else name: value for name, value in call.items()}
