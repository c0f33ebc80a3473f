"""The rewards that have a name: what each measures, what it takes, and which weights it needs.

Packages add their own through the entry point group `noiseward.rewards`: a name, and a function that makes a `Reward`.
Its arguments are what may follow the name; each has a default, whose kind says how it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from noiseward.errors import ArgumentError, choices
from noiseward.options.parts import build
from noiseward.rewards.reward import Reward
from noiseward.rewards.weights import Repo
from noiseward.user_code import ErrorBoundary

__all__ = ["ENTRIES", "GROUP", "Entry", "installed", "is_available", "maker", "needed", "state"]

GROUP = "noiseward.rewards"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named reward, before anything of it is imported.

    Arguments:
        where: `module:name` of something that makes the reward when called.
        measures: one sentence on what it measures.
        range: the values it takes.
        differentiable: whether it has a gradient.
        prompted: whether it compares the picture with its prompt.
        weights: `module:function` that gives the `Repo`s it takes weights from, for the reward's own arguments; empty
            where it takes none.
        licence: of these weights.
    """

    where: str
    measures: str
    range: str
    differentiable: bool = True
    prompted: bool = False
    weights: str = ""
    licence: str = ""


def _pixels(name: str, measures: str, range: str, differentiable: bool = True) -> Entry:
    return Entry(f"noiseward.rewards.pixels:{name}", measures, range, differentiable)


_HERE = "noiseward.rewards."
ENTRIES = {
    "brightness": _pixels("brightness", "mean of all pixels", "0 to 1"),
    "darkness": _pixels("darkness", "1 - brightness", "0 to 1"),
    "contrast": _pixels("contrast", "standard deviation of the luminance", "0 to 0.5"),
    "saturation": _pixels("saturation", "largest less smallest channel, on average", "0 to 1"),
    "colorfulness": _pixels("colorfulness", "Hasler and Süsstrunk's, over 255", "0 to about 0.9"),
    "sharpness": _pixels("sharpness", "differences between neighboring pixels", "0 to 1"),
    "symmetry": _pixels("symmetry", "negative difference to the mirror image", "-1 to 0"),
    "jpeg": _pixels("jpeg", "negative size in kB as a quality-95 JPEG", "below 0", False),
    "clip": Entry(
        f"{_HERE}dual_encoder:clip", "fit to the prompt, by the built-in model's CLIP or clip:model=HUB_ID", "-1 to 1",
        prompted=True, weights=f"{_HERE}dual_encoder:repos", licence="built in: Apache-2.0; else as the model",
    ),
    "stickers-judge": Entry(
        f"{_HERE}dual_encoder:judge", "fit to the prompt, by a CLIP for judging only", "-1 to 1", prompted=True,
        weights=f"{_HERE}dual_encoder:judge_repos", licence="Apache-2.0",
    ),
    "aesthetic": Entry(
        f"{_HERE}aesthetic:aesthetic", "how much people would like it (LAION)", "about 1 to 10",
        weights=f"{_HERE}aesthetic:repos", licence="Apache-2.0 (head), MIT (CLIP)",
    ),
    "pickscore": Entry(
        f"{_HERE}dual_encoder:pickscore", "human preference (PickScore v1)", "about 18 to 24", prompted=True,
        weights=f"{_HERE}dual_encoder:pickscore_repos", licence="none stated by its authors; code MIT",
    ),
    "hpsv2": Entry(
        f"{_HERE}open_clip:hpsv2", "human preference (HPSv2; version=2.0 or 2.1)", "about 0.2 to 0.35", prompted=True,
        weights=f"{_HERE}open_clip:repos", licence="Apache-2.0, MIT (tokenizer)",
    ),
    "imagereward": Entry(
        f"{_HERE}image_reward:imagereward", "human preference (ImageReward v1.0)", "about -2 to 2", prompted=True,
        weights=f"{_HERE}image_reward:repos", licence="Apache-2.0",
    ),
    "similarity": Entry(
        f"{_HERE}similarity:similarity", "likeness to a picture, under a CLIP", "-1 to 1",
        weights=f"{_HERE}similarity:repos", licence="MIT (CLIP)",
    ),
    "classifier": Entry(
        f"{_HERE}classifier:classifier", "log-probability of a class, by a transformers image classifier", "below 0",
        weights=f"{_HERE}classifier:repos", licence="as the model",
    ),
}  # fmt: skip


def installed() -> dict[str, EntryPoint]:
    """Rewards that other installed packages offer, by name; a name taken here stays with us."""
    return {each.name: each for each in entry_points(group=GROUP) if each.name not in ENTRIES}


def maker(name: str) -> Callable[..., Reward]:
    """What makes the reward of a name that is known.

    Raises:
        RewardError: another package's reward that cannot be imported.
    """
    if name in ENTRIES:
        return _at(ENTRIES[name].where)
    point = installed()[name]
    package = point.dist.name if point.dist else point.value
    with ErrorBoundary(f"reward '{name}' of {package}", "on import"):
        return point.load()


def needed(text: str) -> tuple[Repo, ...]:
    """What a reward takes from the hub, by its name and arguments as the command line takes them.

    Raises:
        ArgumentError: there is no such reward, or it has other arguments.
    """
    name, mark, rest = text.partition(":")
    name = name.strip()
    if name not in ENTRIES:
        known = [*ENTRIES, *installed()]
        raise ArgumentError(f"unknown reward '{name}'; {choices(name, known)}")
    where = ENTRIES[name].weights
    return build(f"{name}{mark}{rest}", {name: _at(where)}, "reward") if where else ()


def state(name: str) -> list[tuple[str, str, str]]:
    """Of each piece of a reward's weights: what it is, its size, and whether it is on this machine."""
    if ENTRIES[name].weights == "":
        return []
    repos = needed(name)
    if not repos:
        return [_unlisted(name)]
    return [
        (f"{repo.id} ({', '.join(repo.wanted)})", f"{repo.megabytes} MB", "yes" if repo.cached() else "no")
        for repo in repos
    ]


def is_available(name: str) -> bool:
    """Whether the weights that a reward takes by default, if any, are on this machine."""
    return not any(here.startswith("no") for _, _, here in state(name))


def _unlisted(name: str) -> tuple[str, str, str]:
    part = {"clip": "clip", "stickers-judge": "judge"}.get(name)
    if part is None:
        return "those of the model it is given", "", ""
    from noiseward import stickers

    here = (stickers.path("judge" if part == "judge" else "clip") / "config.json").exists()
    return "comes with the built-in model", "", "yes" if here else "not in this version"


def _at(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(import_module(module), attribute)
