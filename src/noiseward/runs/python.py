"""What a run was asked for in Python, as its directory writes it down.

Names are written as they are. An object, such as a pipeline or a function, has no text that gives it back: it is
written as `<name>`, which tells a reader what it was. Such a run is continued by the call that began it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noiseward.options.run import RunSpec, Settings
from noiseward.problem import Methods, Rewards, Watch, show_object
from noiseward.rewards.convert import is_labeled

__all__ = ["describe_call"]


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
        **settings.values(),
        "model": _show(model),
        "prompt": () if prompt is None else (prompt,) if isinstance(prompt, str) else tuple(prompt),
        "reward": _show_rewards(reward),
        "method": None if method is None else _show(method),
        "watch": None if watch is None else _show_rewards(watch),
    })  # fmt: skip


def _show_rewards(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        return tuple(f"{_show(one)}{'' if weight == 1 else f':{weight:g}'}" for one, weight in value.items())
    several = isinstance(value, Sequence) and not isinstance(value, str) and not is_labeled(value)
    return tuple(_show(one) for one in (value if several else [value]))


def _show(value: Any) -> str:
    return str(value) if isinstance(value, str | Path) else show_object(value)
