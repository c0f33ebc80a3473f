"""Add an IP-Adapter to a pipeline, which takes an image as a prompt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from noiseward import lfs
from noiseward.errors import ArgumentError, ModelError, describe_error, shorten
from noiseward.terminal import silence

__all__ = ["add_ip_adapter"]

# Where the repository of the method's authors, h94/IP-Adapter, has the plain adapter, by the width of the text encoder.
_PLAIN = {768: ("models", "ip-adapter_sd15.safetensors"), 2048: ("sdxl_models", "ip-adapter_sdxl.safetensors")}
_ENCODER = "image_encoder"


def add_ip_adapter(pipe: Any, source: str | Path, *, scale: float | None = None) -> None:
    """Add an IP-Adapter to a pipeline, whose models are changed.

    Arguments:
        pipe: the pipeline.
        source: a `.safetensors` file, next to whose folder or in which a folder `image_encoder` is; a folder with one
            such file; a hub id; or `owner/name/path/to/file.safetensors` on the hub. A folder or an id with the layout
            of h94/IP-Adapter gives the plain adapter for the model.
        scale: how much it counts; default: 1.

    Raises:
        ModelError: there is none, or it cannot be read.
        ArgumentError: it does not fit the pipeline.
    """
    name = type(pipe).__name__
    if not callable(getattr(pipe, "load_ip_adapter", None)) or "unet" not in pipe.components:
        raise ArgumentError(f"{name} takes no IP-Adapter by name; leave ip_adapter out, or load it into a pipeline")
    root, subfolder, file, is_local = _find(pipe, str(source))
    encoder = _find_encoder(root, subfolder, is_local)
    if is_local and pipe.components.get("image_encoder") is None and not Path(root, subfolder, encoder).is_dir():
        raise ModelError(f"ip_adapter '{source}' has no image encoder; put its folder {_ENCODER} next to {file}")
    try:
        with silence("diffusers", "transformers", bars=not is_local):
            where = {"subfolder": subfolder, "image_encoder_folder": encoder}
            pipe.load_ip_adapter(root, weight_name=file, local_files_only=is_local, **where)
            pipe.set_ip_adapter_scale(1.0 if scale is None else scale)
    except Exception as error:  # a file that is missing or damaged, or weights of another shape
        reason = describe_error(error, 200, kind=True)
        if not is_local:
            raise ModelError(
                f"ip_adapter '{source}' is no file here and could not be loaded from the hub: download it first, or "
                f"give a file ({reason})"
            ) from error
        lfs.check_pointers(Path(root))
        raise ModelError(f"ip_adapter '{source}' does not fit {name}, or is damaged ({reason})") from error
    pipe.image_encoder.requires_grad_(False).eval()


def _find(pipe: Any, source: str) -> tuple[str, str, str, bool]:
    """The root, folder and name of the file of weights, and whether it is on this machine."""
    path = Path(os.path.expanduser(source))
    width = getattr(pipe.unet.config, "cross_attention_dim", None)
    plain = _PLAIN.get(width if isinstance(width, int) else 0)
    if os.path.isfile(path):
        if path.suffix != ".safetensors":
            raise ArgumentError(f"ip_adapter must be a .safetensors file, got '{source}'; convert it first")
        return str(path.parent), "", path.name, True
    if os.path.isdir(path):
        if plain and (path / plain[0] / plain[1]).is_file():
            return str(path), *plain, True
        files = sorted(one.name for one in path.glob("*.safetensors"))
        if len(files) != 1:
            got = f"{len(files)} ({shorten(', '.join(files), 120)})" if files else "none"
            raise ArgumentError(f"ip_adapter must be a folder with one .safetensors file, got {got}; name the file")
        return str(path), "", files[0], True
    parts = source.split("/")
    if path.is_absolute() or source.startswith(".") or len(parts) < 2 or not all(parts):
        raise ModelError(f"unknown ip_adapter '{source}': no file here and no hub id (owner/name); check the path")
    root, inner = "/".join(parts[:2]), parts[2:]
    if inner:
        if not inner[-1].endswith(".safetensors"):
            raise ArgumentError(f"ip_adapter must end with a .safetensors file, got '{source}'; name the file")
        return root, "/".join(inner[:-1]), inner[-1], False
    if plain is None:
        raise ArgumentError(
            f"ip_adapter '{source}': which of its files is for {type(pipe).__name__} is not known here; name it, as in "
            f"{source}/FILE.safetensors"
        )
    return root, *plain, False


def _find_encoder(root: str, subfolder: str, is_local: bool) -> str:
    """The folder of the image encoder: in that of the weights, else next to it."""
    inside = Path(root, subfolder, _ENCODER)
    if is_local and not inside.is_dir() and (Path(root).resolve().parent / _ENCODER).is_dir():
        return f"../{_ENCODER}"
    return _ENCODER
