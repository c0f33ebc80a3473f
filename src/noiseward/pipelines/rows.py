"""What a pipeline is asked for some rows: its call's arguments, once per row where they go by row.

Text is repeated, one embedding is expanded, and a prompt that the pipeline does not take as text becomes what it does
take: DiT wants a class, by number or by name. Pipelines that draw whatever they like take a number of rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from noiseward.errors import ArgumentError, choices

__all__ = ["arguments", "opened"]


def arguments(
    pipe: Any, parameters: set[str], call: Mapping[str, Any], batch: int, prompt: list[str] | None
) -> dict[str, Any]:
    """The arguments for `batch` rows.

    Arguments:
        pipe: the pipeline.
        parameters: names of its call's parameters.
        call: what the user gave. Embeddings and classes given here beat the prompt, which then is the reward's alone.
        batch: number of rows.
        prompt: one per row, or None.

    Raises:
        ArgumentError: a prompt for a pipeline without any, no class or an unknown one, or embeddings of several rows.
    """
    given = {name: _per_row(name, value, batch) for name, value in call.items()}
    if given.get("prompt_embeds") is not None or given.get("class_labels") is not None:
        return given
    if "prompt" in parameters:
        given["prompt"] = prompt or [""] * batch
    elif "class_labels" in parameters:
        if prompt is None:
            raise ArgumentError(
                f"no class given: {type(pipe).__name__} draws one, give it as class_labels= or as prompt"
            )
        given["class_labels"] = [_class(pipe, text) for text in prompt]
    elif any(prompt or ()):
        raise ArgumentError(f"prompt '{next(filter(None, prompt or ()))}' given: {type(pipe).__name__} takes none")
    if "batch_size" in parameters:
        given["batch_size"] = batch
    return given


def opened(name: str, value: Any) -> Any:
    """An argument as it was given; the picture itself where an image is named by its path, as on a command line.

    Raises:
        ArgumentError: there is no such picture.
    """
    if not (isinstance(value, str | Path) and name.endswith("image")):
        return value
    from PIL import Image

    try:
        with Image.open(value) as picture:
            return picture.convert("L" if "mask" in name else "RGB")
    except OSError as error:
        raise ArgumentError(f"{name}='{value}' given, no picture that can be read ({error}): give its path") from error


def _per_row(name: str, value: Any, batch: int) -> Any:
    if name == "class_labels":
        labels = [value] if isinstance(value, int) else list(value)
        if len(labels) != 1:
            raise ArgumentError(f"class_labels={value!r} given: give one class for all rows, or prompts, one per row")
        return labels * batch
    if isinstance(value, str) and "prompt" in name:
        return [value] * batch
    if isinstance(value, Tensor) and ("prompt" in name or name.endswith("attention_mask")):
        if value.shape[:1] != (1,):
            raise ArgumentError(
                f"{name} of shape {tuple(value.shape)} given: a leading axis of 1 wanted, all rows share it"
            )
        return value.expand(batch, *value.shape[1:])
    return value


def _class(pipe: Any, text: str) -> int:
    """The class a text names, by number or by one of its names."""
    labels: Mapping[str, int] = getattr(pipe, "labels", {})
    if text.isdecimal():
        return int(text)
    if text in labels:
        return labels[text]
    if not text:
        return 0  # no prompt: what there is to know does not depend on the class
    raise ArgumentError(f"no class is called '{text}': {choices(text, sorted(labels) or ['a class number'])}")
