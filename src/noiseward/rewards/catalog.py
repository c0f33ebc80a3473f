"""The rewards that have a name: what each measures, its arguments, and the weights it needs.

Packages add their own through the entry point group `noiseward.rewards`: a name, and a function that makes a `Reward`.
Its arguments may follow the name; each has a default, whose type says how it is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from noiseward import stickers
from noiseward.errors import ArgumentError, choices
from noiseward.options.parts import build_part
from noiseward.rewards.hub import Repo
from noiseward.rewards.reward import Reward
from noiseward.user_code import ErrorBoundary

__all__ = [
    "ENTRIES", "GROUP", "Entry", "find_maker", "is_available", "list_installed", "list_repos", "list_weights",
]  # fmt: skip

GROUP = "noiseward.rewards"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A named reward, before anything of it is imported.

    Arguments:
        maker: `module:name` of a function that makes the reward.
        measures: one sentence on what it measures.
        range: of its values.
        differentiable: whether it has a gradient.
        prompted: whether it compares the image with its prompt.
        repos: `module:name` of a function that lists the `Repo`s it takes weights from, for the same arguments; empty
            if it takes none.
        license: of these weights.
    """

    maker: str
    measures: str
    range: str
    differentiable: bool = True
    prompted: bool = False
    repos: str = ""
    license: str = ""


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
        prompted=True, repos=f"{_HERE}dual_encoder:repos", license="built in: Apache-2.0; else as the model",
    ),
    "stickers-judge": Entry(
        f"{_HERE}dual_encoder:judge", "fit to the prompt, by a CLIP for judging only", "-1 to 1", prompted=True,
        repos=f"{_HERE}dual_encoder:judge_repos", license="Apache-2.0",
    ),
    "aesthetic": Entry(
        f"{_HERE}aesthetic:aesthetic", "how much people would like it (LAION)", "about 1 to 10",
        repos=f"{_HERE}aesthetic:repos", license="Apache-2.0 (head), MIT (CLIP)",
    ),
    "pickscore": Entry(
        f"{_HERE}dual_encoder:pickscore", "human preference (PickScore v1)", "about 18 to 24", prompted=True,
        repos=f"{_HERE}dual_encoder:pickscore_repos", license="none stated by its authors; code MIT",
    ),
    "hpsv2": Entry(
        f"{_HERE}open_clip:hpsv2", "human preference (HPSv2; version=2.0 or 2.1)", "about 0.2 to 0.35", prompted=True,
        repos=f"{_HERE}open_clip:repos", license="Apache-2.0, MIT (tokenizer)",
    ),
    "imagereward": Entry(
        f"{_HERE}image_reward:imagereward", "human preference (ImageReward v1.0)", "about -2 to 2", prompted=True,
        repos=f"{_HERE}image_reward:repos", license="Apache-2.0",
    ),
    "similarity": Entry(
        f"{_HERE}similarity:similarity", "similarity to an image, under a CLIP", "-1 to 1",
        repos=f"{_HERE}similarity:repos", license="MIT (CLIP)",
    ),
    "chat": Entry(
        f"{_HERE}chat.judge:chat", "a rubric, by a chat model: chat:model=NAME,base_url=URL", "0 to 1", False,
        prompted=True,
    ),
    "chat-pair": Entry(
        f"{_HERE}chat.pair:chat_pair", "the same, by comparison with the best so far", "from 0 on", False,
        prompted=True,
    ),
    "classifier": Entry(
        f"{_HERE}classifier:classifier", "log-probability of a class, by a transformers image classifier", "below 0",
        repos=f"{_HERE}classifier:repos", license="as the model",
    ),
}  # fmt: skip


def list_installed() -> dict[str, EntryPoint]:
    """Rewards of other installed packages by name; a name of ours stays ours."""
    return {each.name: each for each in entry_points(group=GROUP) if each.name not in ENTRIES}


def find_maker(name: str) -> Callable[..., Reward]:
    """The function that makes the reward of a known name.

    Raises:
        RewardError: another package's reward that cannot be imported.
    """
    if name in ENTRIES:
        return _import(ENTRIES[name].maker)
    point = list_installed()[name]
    package = point.dist.name if point.dist else point.value
    with ErrorBoundary(f"reward '{name}' of {package}", "on import"):
        return point.load()


def list_repos(text: str) -> tuple[Repo, ...]:
    """The repositories that a reward takes files from, by its name and arguments on the command line.

    Raises:
        ArgumentError: an unknown reward or argument.
    """
    name, mark, rest = text.partition(":")
    name = name.strip()
    if name not in ENTRIES:
        raise ArgumentError(f"unknown reward '{name}'; {choices(name, [*ENTRIES, *list_installed()])}")
    repos = ENTRIES[name].repos
    return build_part(f"{name}{mark}{rest}", {name: _import(repos)}, "reward") if repos else ()


def list_weights(name: str) -> list[tuple[str, str, str]]:
    """Of each piece of a reward's weights: what it is, its size, and whether it is on this machine."""
    if not ENTRIES[name].repos:
        return []
    built_in: dict[str, Literal["clip", "judge"]] = {"clip": "clip", "stickers-judge": "judge"}
    if name in built_in:
        is_here = (stickers.path(built_in[name]) / "config.json").exists()
        return [("comes with the built-in model", "", "yes" if is_here else "not in this version")]
    repos = list_repos(name)
    if not repos:
        return [("those of the model it is given", "", "")]
    return [
        (f"{repo.id} ({', '.join(repo.files)})", f"{repo.megabytes} MB", "yes" if repo.find_cached() else "no")
        for repo in repos
    ]


def is_available(name: str) -> bool:
    """Whether the weights that a reward takes by default, if any, are on this machine."""
    return not any(is_here.startswith("no") for _, _, is_here in list_weights(name))


def _import(reference: str) -> Any:
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)
