"""The arguments of a pipeline's call for some rows, once per row where they go by row.

Text is repeated, one embedding is expanded, and a prompt that the pipeline does not take as text becomes what it does
take: DiT takes a class, by number or by name. Unconditional pipelines take a number of rows.

An argument with several entries, a list of negative prompts, embeddings with a longer first axis, a list of images, has
one per prompt or one per row: each row gets its own (`entries.py`). Where a list of images is one sample's, as the
inputs of several ControlNets are, a list of such lists has an entry per row.

Every call gets copies of what can be edited. Some pipelines edit the lists they are called with, and a replay must get
what its recording got.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from noiseward.errors import ArgumentError, choices
from noiseward.images import convert_image, read_image
from noiseward.samplers.entries import Entry, plain_prompts

__all__ = [
    "build_arguments",
    "check_call",
    "count_entries",
    "describe_misfits",
    "open_images",
    "runs_alone",
    "takes_path",
]

_IMAGES = re.compile(r"(^|_)(images?|masks?)(_\d+)?$")

_REFUSED = {
    "generator": "use seed=: the noise is drawn outside the pipeline",
    "latents": "pass noise to the sampler instead",
    "prompt": "give the prompt to the call: sampler(noise, prompt)",
    "output_type": "samples are always tensors; solution.images are Pillow images",
    "return_dict": "samples are always tensors; solution.images are Pillow images",
    "num_images_per_prompt": "use batch=: every image is a row of its own",
    "num_videos_per_prompt": "use batch=: every video is a row of its own",
    "num_waveforms_per_prompt": "use batch=: every waveform is a row of its own",
    "batch_size": "use batch=: every image is a row of its own",
    "padding_mask_crop": "its crop is pasted back into a PIL image, outside the graph; crop image= and mask_image=",
}


def check_call(pipe: Any, parameters: set[str], call: Mapping[str, Any]) -> dict[str, Any]:
    """The user's arguments, with images opened.

    Raises:
        ArgumentError: an argument that the pipeline does not know, or that is passed elsewhere here.
    """
    for name in call:
        if name in _REFUSED:
            raise ArgumentError(f"{type(pipe).__name__} takes no {name}= here: {_REFUSED[name]}")
        if name not in parameters:
            raise ArgumentError(f"{type(pipe).__name__} has no argument '{name}'; {choices(name, sorted(parameters))}")
    return {name: open_images(name, value) for name, value in call.items()}


def build_arguments(
    pipe: Any, parameters: set[str], call: Mapping[str, Any], batch: int, prompt: Sequence[str] | None
) -> dict[str, Any]:
    """The arguments of a call for `batch` rows.

    Arguments:
        pipe: the pipeline.
        parameters: names of its call's parameters.
        call: the user's arguments. Embeddings and classes among them replace the prompt, which is then only the
            reward's.
        batch: number of rows.
        prompt: one per row, or None; an `Entry` says which entries of lists are its row's.

    Raises:
        ArgumentError: a prompt for a pipeline without any, no class or an unknown one, or entries for other rows.
    """
    rows = prompt or [""] * batch
    result = {name: _copy(_per_row(pipe, parameters, name, value, rows)) for name, value in call.items()}
    prompt = plain_prompts(prompt)
    embedded = [each for each in result if each.startswith("prompt_embeds")]  # some have one for each text encoder
    if any(result[each] is not None for each in (*embedded, "class_labels") if each in result):
        return result
    name = type(pipe).__name__
    if "prompt" in parameters:
        result["prompt"] = prompt or [""] * batch
        if batch == 1:  # some pipelines take one prompt and no list
            result = {name: _unlist(name, value) for name, value in result.items()}
    elif "class_labels" in parameters and (any(prompt or ()) or _takes_classes(pipe)):
        if prompt is None:
            raise ArgumentError(f"{name} needs a class, got none; give it as class_labels= or as prompt")
        result["class_labels"] = [_class(pipe, text) for text in prompt]
    elif any(prompt or ()):
        raise ArgumentError(f"{name} takes no prompt, got '{next(filter(None, prompt or ()))}'; give none")
    if "batch_size" in parameters:
        result["batch_size"] = batch
    return result


def count_entries(pipe: Any, parameters: set[str], name: str, value: Any) -> int:
    """The number of entries of an argument's value, one per prompt or row; 1 where all rows share it."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        rank = getattr(value, "ndim", 0)
        by_row = _is_embedding(name) and rank > 0 or _is_image(name) and rank == 4
        return value.shape[_row_axis(name, value)] if by_row else 1
    if not isinstance(value, list | tuple):
        return 1
    if name == "class_labels" or "prompt" in name:
        return len(value)
    if _is_image(name):
        is_nested = all(isinstance(part, list | tuple) for part in value)
        return len(value) if is_nested or not _belongs_together(pipe, parameters, name) else 1
    return 1


def describe_misfits(counts: Mapping[str, int], prompt: Sequence[str] | None) -> str:
    """Which lists of images fit neither prompts nor rows, for a pipeline that failed; empty where all fit."""
    rows = [row for row in prompt or () if isinstance(row, Entry)]
    wrong = [
        f"{name} has {count} entries for {' or '.join(map(str, sorted({of for _, of in row.places})))} rows"
        for name, count in counts.items()
        for row in rows[:1]
        if count > 1 and _is_image(name) and row.among(count) is None
    ]
    return f" ({', '.join(wrong)})" if wrong else ""


def runs_alone(names: Sequence[str]) -> bool:
    """Whether rows with entries of their own for these arguments run one at a time.

    Text and embeddings go by row in every pipeline. On a list of images, one per row or several for all, they differ.
    """
    return any(_is_image(name) for name in names)


def open_images(name: str, value: Any) -> Any:
    """An argument with its images converted (`images.py`): Pillow images, and, in an argument for images, paths and
    arrays of bytes.

    Raises:
        ArgumentError: there is no such image.
    """
    from PIL.Image import Image, fromarray

    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(open_images(name, part) for part in value)

    def prepare(image: Any) -> Any:
        return convert_image(image, mask="mask" in name)

    if isinstance(value, str | Path) and takes_path(name):
        return read_image(value, name, prepare)
    array: Any = value
    if takes_path(name) and _is_bytes(array):
        return prepare(fromarray(array))
    return prepare(value) if isinstance(value, Image) else value


def _is_bytes(value: Any) -> bool:
    """Whether a value is an image as an array of levels from 0 to 255."""
    is_array = type(value).__module__ == "numpy" and getattr(value, "ndim", 0) in (2, 3)
    return is_array and value.dtype.name == "uint8"


def takes_path(name: str) -> bool:
    """Whether an argument is an image, or several, and may be given by path."""
    return bool(_IMAGES.search(name)) and not name.endswith("attention_mask")


def _is_image(name: str) -> bool:
    return takes_path(name) and not name.startswith("ip_adapter")


def _is_embedding(name: str) -> bool:
    is_encoded = "prompt" in name or name.endswith(("_embeds", "_embeddings", "attention_mask"))
    return is_encoded and not name.startswith("ip_adapter") and not name.endswith("cu_seqlens")  # lengths of all rows


def _belongs_together(pipe: Any, parameters: set[str], name: str) -> bool:
    """Whether a pipeline takes a list of images as one sample's: frames, references, inputs of several nets."""
    nets = any(len(getattr(part, "nets", ())) > 1 for part in pipe.components.values())
    control = "control_image" if "control_image" in parameters else "image"
    return "video" in parameters or name.endswith("s") or (nets and name == control)


def _per_row(pipe: Any, parameters: set[str], name: str, value: Any, rows: Sequence[str]) -> Any:
    count, batch = count_entries(pipe, parameters, name, value), len(rows)
    if count == 1:
        return _share(name, value, batch)
    places = [row.among(count) if isinstance(row, Entry) else 0 for row in rows]  # 0: discovery, before rows are known
    known = [place for place in places if place is not None]
    if len(known) < batch:
        if _is_image(name):
            return value  # all rows share the list, as a pipeline with several references does
        allowed = sorted({1} | {of for row in rows if isinstance(row, Entry) for _, of in row.places})
        raise ArgumentError(
            f"{name}: expected {' or '.join(map(str, allowed))} entries (shared, per prompt, or per row), got {count}"
        )
    if isinstance(value, list | tuple):
        mine = [value[place] for place in known]
        return mine[0] if _is_image(name) and batch == 1 else mine
    return value[(slice(None),) * _row_axis(name, value) + (known,)]


def _share(name: str, value: Any, batch: int) -> Any:
    """One entry for all rows."""
    if name == "class_labels":
        return ([value] if isinstance(value, int) else list(value)) * batch
    if isinstance(value, str) and "prompt" in name:
        return [value] * batch
    if isinstance(value, list | tuple) and len(value) == 1:
        if "prompt" in name:
            return [value[0]] * batch
        return value[0] if _is_image(name) and isinstance(value[0], list | tuple) else value
    if isinstance(value, Tensor) and _is_embedding(name) and value.ndim > 0:
        axis = _row_axis(name, value)
        if value.shape[axis] == 1:
            return value.expand(*value.shape[:axis], batch, *value.shape[axis + 1 :])
    return value


def _row_axis(name: str, value: Any) -> int:
    """The axis of the rows: the first, or the second of the embeddings of several layers of a text encoder."""
    return 1 if "prompt_embeds" in name and value.ndim == 4 else 0


def _copy(value: Any) -> Any:
    """A copy of a value, which may be edited."""
    from PIL.Image import Image

    if isinstance(value, Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    if type(value) in (list, tuple):
        return type(value)(_copy(part) for part in value)
    if type(value) is dict:
        return {key: _copy(part) for key, part in value.items()}
    return value.copy() if isinstance(value, Image) or type(value).__module__ == "numpy" else value


def _unlist(name: str, value: Any) -> Any:
    """One row's text, without a list around it."""
    is_listed = "prompt" in name and isinstance(value, list) and len(value) == 1
    return value[0] if is_listed and isinstance(value[0], str) else value


def _takes_classes(pipe: Any) -> bool:
    """Whether a model with an argument for classes has any; some of the same architecture have none."""
    configs = [getattr(part, "config", {}) for part in pipe.components.values()]
    names = ("num_class_embeds", "num_embeds_ada_norm", "class_embed_type")
    return any(config.get(name) for config in configs if isinstance(config, Mapping) for name in names)


def _class(pipe: Any, text: str) -> int:
    """The class a text names, by number or by one of its names."""
    labels: Mapping[str, int] = getattr(pipe, "labels", {})
    if text.isdecimal():
        return int(text)
    if text in labels:
        return labels[text]
    if not text:
        return 0  # discovery, which does not depend on the class
    hint = choices(text, sorted(labels)) if labels else "give its number"
    raise ArgumentError(f"unknown class '{text}'; {hint}")
