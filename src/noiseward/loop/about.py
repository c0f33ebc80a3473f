"""What was asked of a run, as its results say it: for images, reports, and people who find a result later."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from noiseward import __version__
from noiseward.errors import shorten
from noiseward.rewards.shortfall import met_reward

__all__ = ["About"]

_CALL = ("num_inference_steps", "guidance_scale", "negative_prompt", "eta", "strength", "scheduler")


@dataclasses.dataclass(frozen=True)
class About:
    """What was asked of a run.

    Attributes:
        prompts: one per row; none for a model without prompts.
        seeds: one per row, where they are known.
        reward: its name.
        method: its text; empty where it has none.
        model: its name, folder or class.
        call: arguments of the pipeline's call, by name.

    Example:
        >>> About(("a duck", "a heart"), (0, 0)).title(1)
        'a heart, seed 0'
    """

    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    reward: str = ""
    method: str = ""
    model: str = ""
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def prompt(self, row: int) -> str:
        """The prompt of a row; empty where there is none."""
        return self.prompts[row] if row < len(self.prompts) else ""

    def title(self, row: int) -> str:
        """Prompt and seed of a row, as far as they are known; else its number."""
        parts = [self.prompt(row), f"seed {self.seeds[row]}" if row < len(self.seeds) else ""]
        return ", ".join(filter(None, parts)) or f"row {row}"

    @property
    def slug(self) -> str:
        """A short name for a folder."""
        from noiseward.options.slug import shorten_to_slug

        return shorten_to_slug(f"{self.prompt(0)} {self.reward}")

    def plain(self) -> dict[str, Any]:
        """The same as plain data: an argument that is no text, number, truth value or list of these is its `str`.

        Example:
            >>> import torch
            >>> About(call={"eta": 1.0, "latents": torch.zeros(1)}).plain()["call"]
            {'eta': 1.0, 'latents': 'tensor([0.])'}
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _plain(value) for name, value in fields.items()}

    def describe(
        self,
        size: tuple[int, int],
        before: Sequence[float],
        after: Sequence[float],
        *,
        steps: Sequence[int] = (),
    ) -> list[dict[str, Any]]:
        """What each image says of itself, row by row (`images/metadata.py`).

        Arguments:
            size: width and height.
            before: the reward of the start.
            after: the reward of the image.
            steps: where each was found.
        """
        return [
            {
                "prompt": self.prompt(row),
                "seed": self.seeds[row] if row < len(self.seeds) else None,
                "reward": self.reward,
                "before": met_reward(before[row]),
                "after": met_reward(after[row]),
                "step": steps[row] if steps else 0,
                "method": self.method,
                "model": self.model,
                "size": f"{size[0]}x{size[1]}",
                **{name: _plain(self.call[name]) for name in _CALL if self.call.get(name) is not None},
                "version": __version__,
            }
            for row in range(len(before))
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, str | int | float) else shorten(str(value), 200)
