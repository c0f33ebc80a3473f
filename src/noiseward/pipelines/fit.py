r"""Which settings of a model fit into how much memory: sums over numbers that were counted once, in `needs.toml`.

With weights W of the denoiser, T of each text encoder and V of the autoencoder, a call's activations a (`balanced`) or
a block's b (`low`), and the decoder's d, one image takes about

| `offload` | bytes |
|---|---|
| none | sum T + W + V + max(a or b, d) |
| `models` | max(T, W + (a or b), V + d) |
| `layers` | max((a or b) + two layers, d) |

in addition to N latents; `fast` keeps N a throughout. Layers that bring quantized weights back to full size keep those
of a call (`balanced`) or of a block (`low`). What a device needs besides, a context, workspaces and fragmentation, is
added as `SHARE` and `CONTEXT`. All of it is computed; docs/my-card.md has what a card measured.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from noiseward.errors import ArgumentError, choices
from noiseward.options.run import Memory

__all__ = ["PRECISIONS", "Needs", "Setting", "list_settings", "load_needs", "needs_of", "read_size"]

SHARE, CONTEXT = 1.1, 0.5e9
PRECISIONS = {"bfloat16": 2.0, "GGUF Q8": 1.0625, "NF4": 0.516, "GGUF Q4": 0.5625}  # bytes per weight of a linear layer
MODES: tuple[Memory, ...] = ("fast", "balanced", "low")
OFFLOADS = (None, "models", "layers")


@dataclasses.dataclass(frozen=True)
class Needs:
    """What one model needs for one image at its usual size, in weights, and in bytes at bfloat16.

    Arguments:
        name: of its card.
        size: of the image.
        steps: sampler steps.
        calls: of the denoiser in one step.
        linear: weights of the denoiser's linear layers.
        other: its other weights.
        largest: weights of its largest linear layer.
        block: weights of the linear layers of its largest block.
        texts: weights of each text encoder.
        vae: weights of the autoencoder.
        latent: numbers in a latent.
        kept: bytes that a call's graph keeps.
        balanced: bytes that a call takes with its gradient.
        low: the same, block by block.
        decoder: bytes that the decoder takes with its gradient.
        decoder_low: the same, in strips.
        decoder_forward: bytes that it takes without.
        decoder_tiny: bytes that a tiny decoder takes with its gradient; 0 where there is none.
        decoder_half: bytes that the own decoder takes at half size; 0 where it cannot.
    """

    name: str
    size: str
    steps: int
    calls: int
    linear: float
    other: float
    largest: float
    block: float
    texts: tuple[float, ...]
    vae: float
    latent: float
    kept: float
    balanced: float
    low: float
    decoder: float
    decoder_low: float
    decoder_forward: float
    decoder_tiny: float
    decoder_half: float

    def to_toml(self) -> str:
        """Its table in `needs.toml`."""
        lines = [f"[{self.name}]"]
        for name, value in dataclasses.asdict(self).items():
            if name != "name":
                lines.append(f"{name} = {_write(value)}")
        return "\n".join(lines) + "\n"

    def bytes_of(self, *, precision: str, memory: str, offload: str | None, decoder: str | None) -> float:
        """Bytes that one step takes with some settings, without what a device needs besides."""
        weights = self.linear * PRECISIONS[precision] + 2 * self.other
        restored = {"fast": self.linear, "balanced": self.linear, "low": self.block}[memory]
        extra = 0.0 if precision == "bfloat16" else 2 * (restored if "GGUF" in precision else self.largest)
        kept = 0.0
        if memory == "fast":
            times = self.steps * self.calls - 1
            kept = times * (self.kept + (extra if "GGUF" in precision else 0.0))
        call = (self.low if memory == "low" else self.balanced) + extra
        own = self.decoder_low if memory == "low" else self.decoder
        small = {"tiny": self.decoder_tiny, "half": self.decoder_half}
        decode = max(self.decoder_forward, small[decoder]) if decoder else own
        latents = 6 * 4 * self.steps * self.latent + kept
        if offload is None:
            return 2 * sum(self.texts) + weights + 2 * self.vae + max(call, decode) + latents
        if offload == "models":
            return max(2 * max(self.texts, default=0.0), weights + call, 2 * self.vae + decode) + latents
        return max(call + 2 * PRECISIONS[precision] * self.largest, decode) + latents


def _write(value: str | float | tuple[float, ...]) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    return str([int(each) for each in value]) if isinstance(value, tuple) else str(int(value))


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to run a model.

    Arguments:
        precision: of the denoiser's linear layers.
        memory: the memory mode.
        offload: whether weights wait in main memory.
        decoder: for gradients; None for the model's own.
        bytes: what it takes.
    """

    precision: str
    memory: str
    offload: str | None
    decoder: str | None
    bytes: float

    @property
    def room(self) -> float:
        """Bytes of a card that it fits into."""
        return SHARE * self.bytes + CONTEXT

    def describe(self) -> str:
        """Its options in words."""
        parts = [self.precision, f"memory {self.memory}"]
        parts += [f"offload {self.offload}"] if self.offload else []
        parts += [f"decoder {self.decoder}"] if self.decoder else []
        return ", ".join(parts)


def list_settings(needs: Needs, available: float, precisions: tuple[str, ...] = tuple(PRECISIONS)) -> list[Setting]:
    """For each precision, the best setting that fits into so many bytes, if one does.

    Best is what leaves weights on the device or takes whole models in turn; then, exact gradients; then no offloading;
    then the faster memory mode.
    """
    found = []
    for precision in precisions:
        fitting = [setting for setting in _settings(needs, precision) if setting.room <= available]
        found += sorted(fitting, key=_rank)[:1]
    return found


def _rank(setting: Setting) -> tuple[bool, bool, int, int]:
    return (
        setting.offload == "layers", setting.decoder is not None, OFFLOADS.index(setting.offload),
        MODES.index(setting.memory),
    )  # fmt: skip


def _settings(needs: Needs, precision: str) -> Iterator[Setting]:
    small = "tiny" if needs.decoder_tiny else "half" if needs.decoder_half else None
    for memory, offload, decoder in itertools.product(MODES, OFFLOADS, dict.fromkeys((None, small))):
        if precision == "NF4" and offload == "layers":
            continue  # it is not driven
        how = {"precision": precision, "memory": memory, "offload": offload, "decoder": decoder}
        yield Setting(**how, bytes=needs.bytes_of(**how))


@functools.cache
def load_needs() -> Mapping[str, Needs]:
    """The models that were counted.

    Example:
        >>> load_needs()["sdxl"].size
        '1024 x 1024'
    """
    file = importlib.resources.files("noiseward.pipelines") / "needs.toml"
    tables: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    return MappingProxyType({
        name: Needs(name=name, **{**table, "texts": tuple(table["texts"])}) for name, table in tables.items()
    })  # fmt: skip


def needs_of(name: str) -> Needs:
    """What a model needs.

    Raises:
        ArgumentError: it was not counted.
    """
    if name not in load_needs():
        raise ArgumentError(
            f"what model '{name}' needs was not counted; {choices(name, load_needs())}, or let memory='auto' measure it"
        )
    return load_needs()[name]


def read_size(text: str) -> float:
    """Bytes of a size such as 12GB; a number alone counts gigabytes.

    Example:
        >>> read_size("12GB"), read_size("8"), read_size("8192MiB")
        (12000000000.0, 8000000000.0, 8589934592.0)
    """
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)[ ]*([GM]i?B|[GM]|)", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None or float(match[1]) == 0:
        raise ArgumentError(f"fit must be a size, as 12GB or 8192MiB, got '{text}'")
    unit = match[2].lower() or "gb"
    power = 2 if unit[0] == "m" else 3
    return float(match[1]) * (1024.0 if "i" in unit else 1000.0) ** power
