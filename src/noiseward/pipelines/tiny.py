r"""Tiny decoders in their author's own files (TAESD, TAEF2): layers by number, without a configuration.

A file such as `taef2_decoder.pth` holds the weights of a chain of layers, named by their places in it, from which the
chain can be read: a convolution 3 x 3, or a block of three with a residual,

.. math:: x \mapsto \mathrm{relu}(f(x) + x), \qquad x \mapsto x + p(x) \text{ before it, where the file has a pool } p.

Places without weights are the squashing of the latent, :math:`3 \tanh(y / 3)`, at the front, a ReLU after the first
convolution, and doublings of the size. It takes latents in unit variance, as the denoiser does, and gives images in
[0, 1]. TAEF2's blocks have pools, which diffusers' `AutoencoderTiny` does not know.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from noiseward.errors import ModelError
from noiseward.pipelines.load import explain_failure

__all__ = ["SUFFIXES", "TinyDecoder", "read_tiny"]

SUFFIXES = (".pth", ".pt", ".safetensors")
GROUPS = 4  # of a pool's normalization


@final
class TinyDecoder(nn.Module):
    """A tiny decoder, with the face of an `AutoencoderTiny`.

    Arguments:
        state: its weights, by the names of the file.
        path: of the file, for messages.

    Attributes:
        config: its number of latent channels; latents are not scaled.
        layers: by their places.
    """

    def __init__(self, state: Mapping[str, Tensor], path: Path) -> None:
        super().__init__()
        places = {name.partition(".")[0] for name in state}
        if not all(place.isdecimal() for place in places) or "1.weight" not in state or "0.weight" in state:
            kind = "an encoder" if "0.weight" in state else "another model"
            raise ModelError(f"{path} holds {kind}: expected a tiny decoder, such as taef2_decoder.pth of TAESD")
        last = max(map(int, places))
        self.layers = nn.Sequential(*(_make_layer(place, last, state) for place in range(last + 1)))
        try:
            self.layers.load_state_dict(dict(state))
        except RuntimeError as error:
            wrong = " ".join(str(error).split()).partition(": ")[2][:200]
            raise ModelError(f"{path} does not fit a tiny decoder: {wrong}") from None
        channels = state["1.weight"].shape[1]
        self.config = types.SimpleNamespace(latent_channels=channels, scaling_factor=1.0, shift_factor=0.0)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(self, latent: Tensor) -> Tensor:
        """An image in [-1, 1]."""
        return self.layers(latent) * 2 - 1

    def decode(self, latent: Tensor) -> Any:
        return types.SimpleNamespace(sample=self(latent))


class _Squash(nn.Module):
    def forward(self, latent: Tensor) -> Tensor:
        return (latent / 3).tanh() * 3


class _Block(nn.Module):
    def __init__(self, width: int, grown: int | None) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convolutions[0], nn.ReLU(), convolutions[1], nn.ReLU(), convolutions[2])
        self.pool = None
        if grown is not None:
            inner, outer = (nn.Conv2d(*sizes, 1, bias=False) for sizes in ((width, grown), (grown, width)))
            self.pool = nn.Sequential(inner, nn.GroupNorm(GROUPS, grown), nn.ReLU(), outer)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.pool is None else x + self.pool(x)
        return (self.conv(x) + x).relu()


def read_tiny(path: Path, dtype: torch.dtype) -> TinyDecoder:
    """Read a tiny decoder from its author's file.

    Raises:
        ModelError: it cannot be read, or is none.
    """
    with explain_failure("decoder", str(path), path):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, Mapping) or not all(isinstance(each, Tensor) for each in state.values()):
            raise ValueError("expected names and tensors")
    return TinyDecoder(state, path).to(dtype)


def _make_layer(place: int, last: int, state: Mapping[str, Tensor]) -> nn.Module:
    """The layer at a place of the chain."""
    weight = state.get(f"{place}.weight")
    if weight is not None:
        return nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=f"{place}.bias" in state)
    first = state.get(f"{place}.conv.0.weight")
    if first is not None:
        pool = state.get(f"{place}.pool.0.weight")
        return _Block(first.shape[1], None if pool is None else pool.shape[0])
    return _Squash() if place == 0 else nn.ReLU() if place == 2 else nn.Upsample(scale_factor=2)
