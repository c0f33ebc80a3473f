"""What a case of the catalog is: a pipeline class, a small configuration of ours, and how it is called."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image

__all__ = ["Case", "case", "reconfigure", "make_embedding", "gray", "make_pipeline", "mask", "photo", "video"]

_ABSENT = ("safety_checker", "feature_extractor", "image_encoder", "watermark", "watermarker")
_OFF = ("requires_safety_checker", "add_watermarker")


@dataclasses.dataclass(frozen=True)
class Case:
    """One configuration.

    Arguments:
        name: of the pipeline class.
        build: makes the pipeline, in float32, the same at every call.
        call: arguments of its call.
        prompts: two that tell rows apart; None where the class takes none.
        refused: what our refusal says, where the class cannot be driven; a regular expression.
        noted: what is wrong with it, where that is the pipeline's own affair.
        single: whether its slope is measured in float32; in float64 its code would mix the two.
    """

    name: str
    build: Callable[[], Any]
    call: Mapping[str, Any]
    prompts: tuple[str, str] | None = ("a b", "c d e")
    refused: str | None = None
    noted: str = ""
    single: bool = False


def case(
    name: str,
    parts: Callable[[], Mapping[str, Any]],
    *,
    prompts: tuple[str, str] | None = ("a b", "c d e"),
    refused: str | None = None,
    noted: str = "",
    **call: Any,
) -> Case:
    """A case of which only the parts and the call have to be said; parts that the class does not take are left out."""
    return Case(name, lambda: make_pipeline(name, parts()), call, prompts, refused, noted)


def make_pipeline(name: str, parts: Mapping[str, Any]) -> Any:
    """A pipeline of a class, from those of the parts that it takes."""
    import diffusers

    kind = getattr(diffusers, name)
    module = vars(sys.modules[kind.__module__])
    if "ftfy" not in module:  # some classes call it whether it is installed or not; our texts need no repair
        module["ftfy"] = types.SimpleNamespace(fix_text=lambda text: text)
    expected = list(inspect.signature(kind.__init__).parameters)[1:]
    given = {each: parts[each] for each in expected if each in parts}
    given |= {each: None for each in expected if each in _ABSENT and each not in parts}
    given |= {each: False for each in expected if each in _OFF and each not in parts}
    pipe = kind(**given)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipe


def reconfigure(module: Any, **config: Any) -> Any:
    """A module like another, with a configuration that differs."""
    torch.manual_seed(0)
    own = {name: value for name, value in module.config.items() if not name.startswith("_")}
    return type(module)(**{**own, **config})


def photo(side: int = 16, *, seed: int = 0) -> Any:
    """A colored image."""
    noise = torch.rand(side, side, 3, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray((noise * 255).byte().numpy())


def gray(side: int = 16) -> Any:
    """An image in one channel."""
    return Image.linear_gradient("L").resize((side, side))


def mask(side: int = 16) -> Any:
    """The left half is to be painted."""
    found = Image.new("L", (side, side), 0)
    found.paste(255, (0, 0, side // 2, side))
    return found


def video(frames: int, side: int = 16) -> list[Any]:
    """Colored images."""
    return [photo(side, seed=k) for k in range(frames)]


def make_embedding(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers like those of an encoder."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
