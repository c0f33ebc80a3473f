"""What was asked of a run, as its spec says it."""

from __future__ import annotations

from noiseward.loop.about import About
from noiseward.options.run import RunSpec
from noiseward.pipelines.cards import card_of

__all__ = ["about_spec"]


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
