"""What a run was asked for in Python, as its directory writes it down.

Names are written as they are. An object, such as a pipeline or a function, has no text that gives it back: it is
written as `<name>`, which tells a reader what it was. Such a run is continued by the call that began it. Pillow images
and noise to start from are written to the cache, by their content, and the run copies them from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noiseward.images import convert_image
from noiseward.images.preview import to_png
from noiseward.options.run import RunSpec, Settings
from noiseward.options.task import IMAGES
from noiseward.problem import Methods, Rewards, Watch, show_object
from noiseward.rewards.convert import is_labeled
from noiseward.runs.files import replace_file
from noiseward.samplers.reference_store import find_cache

__all__ = ["describe_call"]

PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that such a file keeps


def describe_call(
    model: Any,
    prompt: str | Sequence[str] | None,
    reward: Rewards,
    settings: Settings,
    *,
    method: Methods = None,
    watch: Watch = None,
) -> RunSpec:
    """The spec of a call of `align`.

    Raises:
        ArgumentError: an argument of the pipeline that cannot be written down.

    Example:
        >>> def redness(images):
        ...     return images[:, 0].mean((1, 2))
        >>> describe_call("stickers", "a duck", {redness: 1.0, "contrast": 0.5}, Settings()).reward
        ('<redness>', 'contrast:0.5')
    """
    return RunSpec.read({
        **{name: _store(value) if name in IMAGES else value for name, value in settings.values().items()},
        "start": _store_start(settings.start),
        "model": _show(model),
        "prompt": () if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt),
        "reward": _show_rewards(reward),
        "method": None if method is None else _show(method),
        "watch": None if watch is None else _show_rewards(watch),
    })  # fmt: skip


def _store(image: Any) -> Any:
    """The path of an image that is none yet; anything else, or a list of such, as it is."""
    from PIL.Image import Image

    if isinstance(image, list | tuple):
        return [_store(one) for one in image]
    if not isinstance(image, Image):
        return image
    content = to_png(image if image.mode in PNG else convert_image(image))
    return _write(content, ".png")


def _store_start(start: Any) -> Any:
    """The path of noise that is a tensor; anything else as it is."""
    if start is None or isinstance(start, str):
        return start
    from safetensors.torch import save

    return _write(save({"noise": start.detach().cpu().contiguous()}), ".safetensors")


def _write(content: bytes, suffix: str) -> str:
    """Write to the cache, by content; returns the path."""
    path = find_cache() / "inputs" / f"{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda beside: beside.write_bytes(content))
    return str(path)


def _show_rewards(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{_show(one)}{'' if weight == 1 else f':{weight:g}'}" for one, weight in value.items())
    several = isinstance(value, Sequence) and not isinstance(value, str) and not is_labeled(value)
    return tuple(_show(one) for one in (value if several else [value]))


def _show(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else show_object(value)
