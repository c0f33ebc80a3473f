"""What the images of a run say of themselves (`images/metadata.py`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from noiseward import __version__
from noiseward.loop.about import About
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of

__all__ = ["about_spec", "describe_images"]

_CALL = ("num_inference_steps", "guidance_scale", "negative_prompt", "eta", "strength")


def about_spec(spec: RunSpec) -> About:
    """What a spec asks for."""
    card = card_of(spec.model)
    call = {**(card.call if card else {}), **spec.arguments}
    scheduler = spec.scheduler or (card.scheduler if card else None)
    return About(
        prompts=tuple(prompt for prompt in spec.prompt for _ in range(spec.batch)),
        seeds=tuple(spec.seed + number for _ in spec.prompt or ("",) for number in range(spec.batch)),
        reward=" + ".join(spec.reward),
        method=spec.method or "",
        model=spec.model,
        call={**call, **({"scheduler": scheduler} if scheduler else {})},
    )


def describe_images(
    about: About,
    size: tuple[int, int],
    before: Sequence[float],
    after: Sequence[float],
    *,
    steps: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """What each image says, row by row.

    Arguments:
        about: what was asked.
        size: width and height.
        before: the reward of the start.
        after: the reward of the image.
        steps: where each was found.
    """
    return [
        {
            "prompt": about.prompt(row),
            "seed": about.seeds[row] if row < len(about.seeds) else None,
            "reward": about.reward,
            "before": before[row] if math.isfinite(before[row]) else None,
            "after": after[row] if math.isfinite(after[row]) else None,
            "step": steps[row] if steps else 0,
            "method": about.method,
            "model": about.model,
            "size": f"{size[0]}x{size[1]}",
            **{name: about.call[name] for name in (*_CALL, "scheduler") if about.call.get(name) is not None},
            "version": __version__,
        }
        for row in range(len(before))
    ]
