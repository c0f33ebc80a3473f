"""Model cards: where a model is found and how it is best called, as `cards.toml` says; nothing here needs a network."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.resources
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = [
    "Card", "card_of", "find_decoder", "ignores_eta", "load_cards", "load_decoders", "load_schedulers", "set_threads",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Card:
    """Where a model is found, and how its makers advise to call it.

    Arguments:
        says: what it is, in a few words.
        id: on the hub, `owner/name`.
        revision: branch, tag or commit.
        module: instead of an id, a Python module that comes with the model's files: its `path(part)` is the folder of
            the `model`, and of the `judge`, a CLIP trained independently; `words()` lists what the model can draw, by
            kind; `check_prompt(prompt)` warns of other words, which `find_unknown(prompt)` lists. Imported when one of
            them is used.
        dtype: precision of its weights, by name; None: the device's.
        scheduler: a name `--scheduler` takes; None: the model's own.
        call: arguments of its call.
        memory: the mode that gradients are taken in, see `DiffusersSampler`.
        threads: of torch; None: as many as torch takes by itself.
        watch: held-out rewards that are tracked by default.
        needs_prompt: whether it draws nothing without a prompt.
        prompts: what prompts look like.
    """

    says: str
    id: str | None = None
    revision: str = "main"
    module: str | None = None
    dtype: str | None = None
    scheduler: str | None = None
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    memory: str = "balanced"
    threads: int | None = None
    watch: tuple[str, ...] = ()
    needs_prompt: bool = False
    prompts: str | None = None

    @property
    def path(self) -> Path | None:
        """The model's folder, where it is on this machine by itself."""
        return self._module.path("model") if self.module else None

    @property
    def judge(self) -> Path | None:
        """The folder of a CLIP whose features are independent of the rewards' models, where there is one."""
        folder = self._module.path("judge") if self.module else None
        return folder if folder and (folder / "config.json").exists() else None

    @property
    def words(self) -> Mapping[str, tuple[str, ...]]:
        """What the model can draw, by kind; nothing if that is not known."""
        return self._module.words() if self.module else {}

    def check_prompt(self, prompt: str) -> None:
        """Warn of words that mean nothing to the model, where its words are known."""
        if self.module:
            self._module.check_prompt(prompt)

    def find_unknown(self, prompt: str) -> Mapping[str, tuple[str, ...]]:
        """Words that mean nothing to the model, where its words are known, each with those it knows that are close."""
        return self._module.find_unknown(prompt) if self.module else {}

    @property
    def _module(self) -> Any:
        return importlib.import_module(str(self.module))


def card_of(model: Any) -> Card | None:
    """The card of a model by its short name; None for a pipeline, a folder, a hub id or an unknown name.

    Example:
        >>> card_of("stickers").memory, card_of("owner/name")
        ('fast', None)
    """
    return load_cards().get(model) if isinstance(model, str) else None


@functools.cache
def load_cards() -> Mapping[str, Card]:
    """The models that have a short name.

    Example:
        >>> load_cards()["sdxl-turbo"].call["num_inference_steps"]
        1
    """
    entries = _read()["models"].items()
    return MappingProxyType(
        {name: Card(**{**entry, "watch": tuple(entry.get("watch", ()))}) for name, entry in entries}
    )


def load_schedulers() -> Mapping[str, dict[str, Any]]:
    """Short names of schedulers: each a diffusers class under `class`, and settings.

    Example:
        >>> load_schedulers()["euler-a"]["class"]
        'EulerAncestralDiscreteScheduler'
    """
    return _read()["schedulers"]


def ignores_eta(name: str) -> bool:
    """Whether a scheduler, by its short name or class, has no `eta`.

    Example:
        >>> ignores_eta("euler"), ignores_eta("DDIMScheduler"), ignores_eta("eulr")
        (True, False, False)
    """
    kind = str(load_schedulers().get(name, {"class": name})["class"])
    return kind.endswith("Scheduler") and not any(one in kind for one in ("DDIM", "TCD", "CogVideoX"))


def load_decoders() -> Mapping[str, dict[str, Any]]:
    """Tiny decoders: the hub id or the module of each, and which autoencoder's latents it decodes.

    Example:
        >>> load_decoders()["taesd"]["id"]
        'madebyollin/taesd'
    """
    return _read()["decoders"]


def find_decoder(decoder: Mapping[str, Any]) -> str | Path:
    """The hub id of a tiny decoder, or its folder where it comes with a Python module.

    Example:
        >>> find_decoder(load_decoders()["stickers"]).name
        'tiny'
    """
    return decoder["id"] if "id" in decoder else importlib.import_module(decoder["module"]).path("tiny")


def set_threads(model: str) -> None:
    """Let torch take as many threads as a model's card says, if it says so."""
    card = card_of(model)
    if card and card.threads:
        import torch

        torch.set_num_threads(card.threads)


@functools.cache
def _read() -> dict[str, Any]:
    file = importlib.resources.files("noiseward.pipelines") / "cards.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))
