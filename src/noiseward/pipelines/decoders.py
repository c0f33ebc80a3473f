r"""Another decoder for gradients: what is shown and scored comes from the pipeline's own.

An image :math:`x = D(y)` is decoded from a latent y without a graph, and the gradient of its reward is pulled back
through a smaller decoder :math:`\tilde D` at the same latent:

.. math:: \nabla_y r \approx \tilde J(y)^\top \nabla_x r(x), \qquad \tilde J = \partial \tilde D / \partial y.

At full size the own decoder's graph is what needs most memory once the denoiser is recomputed. The gradient is biased
by how far :math:`\tilde J` is from J; rewards, histories and results are not, because no value comes from it.
`docs/my-card.md` has what that costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn import functional as F

from noiseward.errors import ArgumentError, ModelError, choices
from noiseward.noise.tape import off
from noiseward.pipelines.cards import find_decoder, load_decoders
from noiseward.pipelines.load import explain_failure
from noiseward.pipelines.tiny import SUFFIXES, TinyDecoder, read_tiny

__all__ = ["Decoder", "open_decoder"]

NAMES = ("tiny", "half")

Decode = Callable[..., Any]


@final
class Decoder:
    """A decoder whose gradients stand in for those of a pipeline's own.

    Arguments:
        given: what it was asked for by.
        says: what it is.
        apply: from the own decoder's `decode` and a latent as that takes it, an image in the same range.
    """

    def __init__(self, given: str | Path | Module, says: str, apply: Callable[[Decode, Tensor], Tensor]) -> None:
        self.given, self.says, self._apply = given, says, apply

    def around(self, vae: Module, decode: Decode) -> Decode:
        """The autoencoder's `decode`, with a graph that leads through this one."""

        def call(latent: Tensor, *args: Any, **kwargs: Any) -> Any:
            if not (torch.is_grad_enabled() and latent.requires_grad):
                return decode(latent, *args, **kwargs)
            with off(), torch.no_grad():
                result = decode(latent, *args, **kwargs)
            shown: Tensor = result[0]
            with off():
                made = self._apply(decode, latent)
            sized = made.shape == shown.shape
            if not sized and (made.ndim != 4 or made.shape[:2] != shown.shape[:2]):
                raise ModelError(
                    f"expected a decoder of samples {tuple(shown.shape)} for decoder=, got {tuple(made.shape)} from "
                    f"{self.says}; give one for the latents of {type(vae).__name__}"
                )
            if not sized:
                made = F.interpolate(made, size=shown.shape[2:], mode="bilinear", align_corners=False)
            image = _Instead.apply(shown, made)
            return (image, *result[1:]) if isinstance(result, tuple) else type(result)(sample=image)

        return call


class _Instead(torch.autograd.Function):
    """One tensor, with the graph of another."""

    @staticmethod
    def forward(ctx: Any, shown: Tensor, made: Tensor) -> Tensor:
        ctx.like = made.dtype
        return shown.view_as(shown)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0].to(ctx.like)


class _Tiny(Protocol):
    dtype: torch.dtype
    config: Any

    def to(self, *args: Any) -> Any: ...
    def decode(self, latent: Tensor) -> Any: ...


def open_decoder(decoder: str | Path | Module, pipe: Any) -> Decoder:
    """Open a decoder for the gradients of a pipeline.

    Arguments:
        decoder: `tiny` for the `AutoencoderTiny` of the pipeline's latents that is published, or comes with the
            built-in model; `half` for its own decoder at half the size; a folder or hub id of an `AutoencoderTiny`; a
            file as TAESD's author publishes them, `taef2_decoder.pth` for Flux.2 among them; or a module, which is
            given the latents that the autoencoder's `decode` is given, unless it is an `AutoencoderTiny`.
        pipe: the pipeline.

    Raises:
        ArgumentError: a pipeline without such latents, or an unknown name.
        ModelError: it could not be loaded.
    """
    vae = getattr(pipe, "vae", None)
    if not isinstance(vae, Module) or not callable(getattr(vae, "decode", None)):
        raise ArgumentError(f"decoder= needs a pipeline with an autoencoder 'vae', got {type(pipe).__name__}")
    if not isinstance(decoder, Module) and any(isinstance(part, nn.Conv3d) for part in vae.modules()):
        raise ArgumentError(
            f"decoder '{decoder}' is for images, got the autoencoder of video {type(vae).__name__}; leave it out, or "
            "give a module of your own"
        )
    if not isinstance(decoder, str | Path | Module):
        raise ArgumentError(f"decoder must be tiny, half, a folder, a hub id or a module, got {decoder!r}")
    if decoder is vae:
        raise ArgumentError(f"decoder= is {type(pipe).__name__}'s own autoencoder; leave it out")
    if decoder == "half":
        return Decoder(decoder, "its decoder at half size", _decode_half)
    module = decoder if isinstance(decoder, Module) else _load(decoder, vae, type(pipe).__name__)
    module.requires_grad_(False).eval()
    name = type(module).__name__
    if name == "AutoencoderTiny" or isinstance(module, TinyDecoder):
        tiny: Any = module
        theirs, own = tiny.config.latent_channels, getattr(getattr(vae, "config", None), "latent_channels", None)
        if own not in (None, theirs):
            raise ModelError(
                f"expected a decoder of latents with {own} channels, as {type(pipe).__name__}'s have, got one "
                f"of {theirs} ({name}); give another, or half"
            )
        return Decoder(decoder, "a tiny decoder", lambda decode, latent: _decode_tiny(tiny, vae, latent))
    return Decoder(decoder, f"a decoder of another kind ({name})", lambda decode, latent: _decode_other(module, latent))


def _load(decoder: str | Path, vae: Any, pipeline: str) -> Module:
    from diffusers import AutoencoderTiny

    text = os.path.expanduser(_find_tiny(vae, pipeline) if decoder == "tiny" else decoder)  # a folder is ./tiny
    if text.endswith(SUFFIXES) and os.path.isfile(text):
        return read_tiny(Path(text), vae.dtype)
    is_local = os.path.exists(text)
    if not is_local and text.count("/") != 1:
        raise ArgumentError(
            f"unknown decoder '{decoder}': no folder here, no name and no hub id (owner/name); "
            f"{choices(str(decoder), NAMES)}"
        )
    with explain_failure(f"decoder '{decoder}'", text, Path(text) if is_local else None):
        loaded: Any = AutoencoderTiny.from_pretrained(
            text, dtype=vae.dtype, local_files_only=is_local, output_loading_info=True
        )
    module, found = loaded
    if missing := sorted(found["missing_keys"]):  # which diffusers leaves as they are
        raise ModelError(
            f"expected an AutoencoderTiny for decoder '{decoder}', got a model without {len(missing)} of its weights "
            f"('{missing[0]}', ...); give the folder or hub id of one, or half"
        )
    return module


def _find_tiny(vae: Any, pipeline: str) -> str:
    """The folder or hub id of the tiny decoder of an autoencoder's latents."""
    config = vae.config
    for each in load_decoders().values():
        if (
            each["kind"] == type(vae).__name__
            and each["channels"] == config.latent_channels
            and each.get("scale") in (None, getattr(config, "scaling_factor", None))
            and each.get("widths") in (None, [*getattr(config, "block_out_channels", ())])
        ):
            return str(find_decoder(each))
    if type(vae).__name__ == "AutoencoderKLFlux2":
        raise ArgumentError(
            f"no tiny decoder of {pipeline}'s latents is published for diffusers; give the file taef2_decoder.pth of "
            "github.com/madebyollin/taesd by its path, or half"
        )
    raise ArgumentError(
        f"no tiny decoder is known for {pipeline}'s latents ({type(vae).__name__}, {config.latent_channels} channels); "
        "give the folder or hub id of one, or half"
    )


def _decode_tiny(module: _Tiny, vae: Any, latent: Tensor) -> Tensor:
    """What an `AutoencoderTiny` makes of a latent, which it takes as the denoiser does, in unit variance."""
    own, theirs = vae.config, module.config
    mean, std = (_per_channel(getattr(own, name, None), latent) for name in ("latents_mean", "latents_std"))
    unit = latent - (getattr(own, "shift_factor", None) or 0.0) - (0.0 if mean is None else mean)
    unit = unit * (getattr(own, "scaling_factor", None) or 1.0) / (1.0 if std is None else std)
    unit = _normalize_patches(vae.bn, getattr(own, "batch_norm_eps", 0.0), unit) if hasattr(vae, "bn") else unit
    given = unit / theirs.scaling_factor + theirs.shift_factor
    return module.to(latent.device).decode(given.to(module.dtype)).sample


def _normalize_patches(statistics: Any, eps: float, latent: Tensor) -> Tensor:
    """A latent whose statistics are those of its patches of 2 x 2, as Flux.2's are, in unit variance."""
    mean = statistics.running_mean.view(1, -1, 1, 1).to(latent)
    std = (statistics.running_var.view(1, -1, 1, 1).to(latent) + eps).sqrt()
    return F.pixel_shuffle((F.pixel_unshuffle(latent, 2) - mean) / std, 2)


def _per_channel(values: Any, like: Tensor) -> Tensor | None:
    return None if values is None else torch.tensor(values).view(1, -1, 1, 1).to(like)


def _decode_other(module: Any, latent: Tensor) -> Tensor:
    made = (getattr(module, "decode", None) or module)(latent)
    return made if isinstance(made, Tensor) else made[0]


def _decode_half(decode: Decode, latent: Tensor) -> Tensor:
    return decode(F.avg_pool2d(latent, 2), return_dict=False)[0]
